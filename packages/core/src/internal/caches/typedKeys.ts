/**
 * A cache by keys of a schema over a cache by texts.
 */
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import type { CacheHandle } from "../cache/model.ts"
import { CachesError, type Handle } from "./model.ts"

export const make = <K, A, E>(
  name: string,
  schema: Schema.Schema<K, string>,
  cache: CacheHandle<A, E>
): Handle<K, A, E> => {
  const encode = Schema.encodeEither(schema)
  const invalid = Effect.die(
    new CachesError({
      reason: "InvalidKey",
      cache: name,
      description: "a key is not of the schema that the cache is defined with"
    })
  )

  /** The text of a key. One that has none is a mistake in the program, and its value is nobody's business. */
  const at = <B, E2, R>(key: K, then: (text: string) => Effect.Effect<B, E2, R>): Effect.Effect<B, E2, R> =>
    Effect.suspend(() => {
      const text = encode(key)
      return Either.isRight(text) ? then(text.right) : invalid
    })

  const all = <B, E2, R>(
    keys: Iterable<K>,
    then: (texts: ReadonlyArray<string>) => Effect.Effect<B, E2, R>
  ): Effect.Effect<B, E2, R> =>
    Effect.suspend(() => {
      const texts = Either.all(Array.from(keys, (key) => encode(key)))
      return Either.isRight(texts) ? then(texts.right) : invalid
    })

  return {
    namespace: cache.namespace,
    get: (key) => at(key, cache.get),
    set: (key, value, options) => at(key, (text) => cache.set(text, value, options)),
    delete: (key) => at(key, cache.delete),
    deleteMany: (keys) => all(keys, cache.deleteMany),
    getOrElse: (key, compute, options) => at(key, (text) => cache.getOrElse(text, compute, options)),
    getOrElseOption: (key, compute, options) => at(key, (text) => cache.getOrElseOption(text, compute, options)),
    getOrElseMany: (keys, load, options) =>
      all(keys, (texts) => {
        const keyOf = new Map(texts.map((text, index) => [text, keys[index] as K]))
        return cache.getOrElseMany(
          texts,
          (missing) =>
            Effect.flatMap(
              load(missing.flatMap((text) => (keyOf.has(text) ? [keyOf.get(text) as K] : []))),
              (loaded) => {
                const entries = [...loaded]
                return all(
                  entries.map(([key]) => key),
                  (found) =>
                    Effect.succeed(entries.map(([, value], index): readonly [string, A] => [found[index] ?? "", value]))
                )
              }
            ),
          options
        )
      }),
    getMany: (keys) => all(keys, cache.getMany),
    setMany: (entries, options) =>
      Effect.suspend(() => {
        const listed = [...entries]
        return all(
          listed.map(([key]) => key),
          (texts) =>
            cache.setMany(
              listed.map(([, value], index): readonly [string, A] => [texts[index] ?? "", value]),
              options
            )
        )
      }),
    invalidateTags: cache.invalidateTags,
    clear: cache.clear,
    stats: cache.stats
  }
}
