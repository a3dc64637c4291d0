/**
 * The cache backend on Redis: one key an entry, always with a time to live, cleared by scanning. Plain effects.
 *
 * @since 0.1.0
 */
import * as Cache from "@underlay/core/state/Cache"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as StoreErrors from "./internal/storeErrors.ts"
import * as RedisClient from "./RedisClient.ts"
import type { RedisError } from "./RedisError.ts"

/**
 * The backend of core's caches on the Redis client.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer: Layer.Layer<Cache.Cache, never, RedisClient.RedisClient> = Layer.effect(
  Cache.Cache,
  Effect.map(RedisClient.RedisClient, (client) => make(client))
)

/**
 * The backend as a value. `getMany` and `setMany` are sent in one go, 500 entries at a time; `clear` walks the keys of
 * the server with `SCAN` and frees what it finds with `UNLINK`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (client: RedisClient.Service): Cache.Backend => {
  const fails =
    (method: string) =>
    (error: RedisError): Cache.CacheError =>
      new Cache.CacheError({
        reason: StoreErrors.reasonOf(error),
        method,
        description: StoreErrors.descriptionOf(error),
        cause: error
      })

  const text = (reply: RedisClient.Reply): string | undefined => (typeof reply === "string" ? reply : undefined)

  /** A key of another type is not an entry: a miss. */
  const read = (
    result: Either.Either<RedisClient.Reply, RedisError>
  ): Either.Either<string | undefined, RedisError> => {
    if (Either.isRight(result)) return Either.right(text(result.right))
    return result.left.reason === "WrongType" ? Either.right(undefined) : Either.left(result.left)
  }

  const clear = (pattern: string, cursor: string, count: number): Effect.Effect<number, RedisError> =>
    Effect.flatMap(client.send("SCAN", cursor, "MATCH", pattern, "COUNT", 500), (reply) => {
      const [next, found] = Array.isArray(reply) ? reply : []
      const keys = Array.isArray(found) ? found.filter((one) => typeof one === "string") : []
      const freed = keys.length === 0 ? Effect.succeed<RedisClient.Reply>(0) : client.send("UNLINK", ...keys)
      return Effect.flatMap(freed, (number) => {
        const total = count + (typeof number === "number" ? number : 0)
        return typeof next === "string" && next !== "0" ? clear(pattern, next, total) : Effect.succeed(total)
      })
    })

  return {
    get: (key) =>
      Effect.matchEffect(client.send("GET", key), {
        onFailure: (error) =>
          error.reason === "WrongType" ? Effect.succeed(undefined) : Effect.fail(fails("get")(error)),
        onSuccess: (reply) => Effect.succeed(text(reply))
      }),
    getMany: (keys) =>
      Effect.mapBoth(
        Effect.forEach(StoreErrors.pieces(keys, 500), (piece) =>
          Effect.flatMap(client.sendMany(piece.map((key) => ["GET", key] as const)), (results) =>
            Effect.forEach(results, (result) => read(result))
          )
        ),
        { onSuccess: (found) => found.flat(), onFailure: fails("getMany") }
      ),
    set: (key, value, ttl) =>
      Effect.mapBoth(client.send("SET", key, value, "PX", ttl), {
        onSuccess: () => undefined,
        onFailure: fails("set")
      }),
    setMany: (entries) =>
      Effect.mapError(
        Effect.forEach(
          StoreErrors.pieces(entries, 500),
          (piece) =>
            Effect.flatMap(
              client.sendMany(piece.map(({ key, ttl, value }) => ["SET", key, value, "PX", ttl] as const)),
              StoreErrors.allReplies
            ),
          { discard: true }
        ),
        fails("setMany")
      ),
    delete: (key) =>
      Effect.mapBoth(client.send("DEL", key), {
        onSuccess: (reply) => reply === 1,
        onFailure: fails("delete")
      }),
    clear: (prefix) => Effect.mapError(clear(`${literal(prefix)}*`, "0", 0), fails("clear"))
  }
}

/** A text as a pattern that matches itself alone. */
const literal = (value: string): string => value.replace(/[\\*?[\]^-]/g, (character) => `\\${character}`)
