/**
 * Entries that are given out once, to who has their token, within so many tries: what confirmation codes and sign-ups are
 * kept in. A port of the internal plane: nothing is emitted per operation.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Service } from "../internal/caches/oneTimeModel.ts"
import { ExpiringMap } from "../internal/expiringMap.ts"

export * from "../internal/caches/oneTimeModel.ts"

/**
 * The one-time store of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class OneTimeStore extends Context.Tag("@underlay/core/OneTimeStore")<OneTimeStore, Service>() {}

/**
 * Options of the store inside this process.
 *
 * @since 0.1.0
 * @category models
 */
export interface MemoryOptions {
  /**
   * Entries that are kept, and keys whose pauses and quotas are; of each, the one used least recently is forgotten first.
   * Default: 100,000.
   */
  readonly capacity?: number | undefined
}

/**
 * A store inside this process, by `Clock`. Another process knows nothing of it, so a code that was issued here is wrong
 * there: for programs of one process, and for tests.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<OneTimeStore> =>
  Layer.sync(OneTimeStore, () => makeMemory(options))

interface Kept {
  readonly token: string
  readonly text: string
  triesLeft: number
  readonly counted: boolean
}

/**
 * A store inside this process as a value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeMemory = (options: MemoryOptions = {}): Service => {
  const capacity = options.capacity ?? 100_000
  const entries = new ExpiringMap<Kept>(capacity)
  const pauses = new ExpiringMap<true>(capacity)
  const counts = new ExpiringMap<{ count: number }>(capacity)
  const atNow = <A>(f: (now: number) => A): Effect.Effect<A> => Effect.map(Clock.currentTimeMillis, f)

  return {
    put: ({ key, pause, present, quota, text, token, tries, ttl }) =>
      atNow((now) => {
        const until = entries.expiryOf(key, now)
        if (until !== undefined && present === "keep") return { _tag: "Present", left: until - now }
        const paused = pauses.expiryOf(key, now)
        if (paused !== undefined) return { _tag: "Throttled", left: paused - now }
        if (quota !== undefined) {
          const counted = counts.get(key, now)
          if (counted === undefined) counts.set(key, { count: 1 }, now + quota.within, now)
          else if (counted.count >= quota.limit) {
            return { _tag: "Throttled", left: (counts.expiryOf(key, now) ?? now) - now }
          } else counted.count++
        }
        if (pause > 0) pauses.set(key, true, now + pause, now)
        const counted = tries !== undefined
        entries.set(key, { token, text, triesLeft: tries ?? Number.POSITIVE_INFINITY, counted }, now + ttl, now)
        return { _tag: "Put" }
      }),
    take: (key, token) =>
      atNow((now) => {
        const kept = entries.get(key, now)
        if (kept === undefined) return { _tag: "Absent" }
        if (kept.triesLeft <= 0) return { _tag: "Exhausted" }
        if (!same(kept.token, token)) {
          kept.triesLeft--
          return { _tag: "Wrong", triesLeft: kept.triesLeft }
        }
        entries.delete(key, now)
        pauses.delete(key, now)
        return { _tag: "Taken", text: kept.text }
      }),
    peek: (key, token) =>
      atNow((now) => {
        const kept = entries.get(key, now)
        if (kept === undefined || kept.counted || !same(kept.token, token)) return undefined
        return { text: kept.text, left: (entries.expiryOf(key, now) ?? now) - now }
      }),
    drop: (key, token) =>
      atNow((now) => {
        const kept = entries.peek(key, now)
        if (kept === undefined || (token !== undefined && !same(kept.token, token))) return false
        return entries.delete(key, now)
      })
  }
}

/** Equal, in a time that does not tell how much of them is. */
const same = (a: string, b: string): boolean => {
  if (a.length !== b.length) return false
  let differences = 0
  for (let at = 0; at < a.length; at++) differences |= a.charCodeAt(at) ^ b.charCodeAt(at)
  return differences === 0
}
