/**
 * What the parts of the cache's suite share.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Cache from "../../state/Cache.ts"
import * as SessionStore from "../../state/SessionStore.ts"

/**
 * What a backend may be able to do: to hold leases, so that a key is computed once however many processes ask; to hold
 * stamps, for tags and generations; to tell of changes, for the tier in the process; to count what `clear` deletes (`counts`).
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "leases" | "stamps" | "invalidations" | "counts"

export const namespace = Effect.map(SessionStore.makeId, (id) => `suite-${id.slice(0, 12)}`)

export type Settings = Partial<Omit<Cache.Options<number, number>, "schema" | "firstTier" | "strict">>

/** A cache of numbers without jitter, in a namespace of its own if none is given. */
export const numbers = (settings: Settings = {}) =>
  Effect.flatMap(namespace, (name) => Cache.make({ namespace: name, schema: Schema.Number, jitter: 0, ...settings }))

/** The same with a tier in the process. */
export const tiered = (settings: Settings & { readonly firstTier?: Cache.FirstTier } = {}) =>
  Effect.flatMap(namespace, (name) =>
    Cache.make({ namespace: name, schema: Schema.Number, jitter: 0, firstTier: {}, ...settings, strict: false })
  )

/** Writes a text as an entry, past every handle. */
export const plant = (name: string, key: string, text: string, from = "elsewhere") =>
  Effect.flatMap(Cache.Cache, (backend) =>
    backend.set(
      { key: `cache:${name}:${key}`, text, ttl: 600_000 },
      { namespace: name, prefix: `cache:${name}:`, from }
    )
  )

/**
 * Waits until a condition holds, by giving way to others and, for what comes from another process, to the event loop.
 * Gives up after some seconds, and the case that waits fails.
 */
export const until = <E, R>(condition: Effect.Effect<boolean, E, R>): Effect.Effect<boolean, E, R> =>
  Effect.gen(function* () {
    for (let round = 0; round < 5_000; round++) {
      if (yield* condition) return true
      yield* nextTurn
    }
    return false
  })

/** A turn of the event loop, which a test's clock does not hold up. */
const nextTurn: Effect.Effect<void> = Effect.async((resume) => {
  const timer = setTimeout(() => resume(Effect.void), 1)
  return Effect.sync(() => clearTimeout(timer))
})

export const seconds = Duration.seconds
