/** A session store that is there or away as a test wants it. */

import { SessionStore } from "@underlay/core"
import { Context, Effect, Layer } from "effect"

/** How it is away: refusing at once, silent, or doing what it is asked without saying so. */
export type Away = "refuses" | "hangs up before" | "hangs up after"

export interface Unsteady {
  readonly store: SessionStore.Service
  /** The store behind it, as other processes see it. */
  readonly real: SessionStore.Service
  away: Away | undefined
  /** Only these operations meet what is wrong; by default all. */
  only: ReadonlySet<string> | undefined
  calls: number
  /** After so many calls it goes away. */
  until: { calls: number; readonly away: Away } | undefined
  /** So many failures, and it is there again. */
  healsAfter: number
  /** Whether it never answers. */
  hangs: boolean
}

const failure = (method: string, away: Away) =>
  new SessionStore.SessionStoreError({
    reason: away === "hangs up after" ? "Timeout" : "Unavailable",
    method,
    description: "the test wants it so",
    outcome: away === "refuses" ? "not-done" : "unknown"
  })

export const over = (real: SessionStore.Service): Unsteady => {
  const operation = <A>(
    method: string,
    effect: () => Effect.Effect<A, SessionStore.SessionStoreError>
  ): Effect.Effect<A, SessionStore.SessionStoreError> =>
    Effect.suspend(() => {
      unsteady.calls++
      if (unsteady.until !== undefined && unsteady.until.calls-- <= 0) {
        unsteady.away = unsteady.until.away
        unsteady.until = undefined
      }
      const { away, hangs, only } = unsteady
      if (hangs) return Effect.never
      if (away === undefined || only?.has(method) === false) return effect()
      if (--unsteady.healsAfter <= 0) {
        unsteady.away = undefined
        unsteady.healsAfter = Number.POSITIVE_INFINITY
      }
      const fails = Effect.fail(failure(method, away))
      return away === "hangs up after" ? Effect.zipRight(Effect.either(effect()), fails) : fails
    })
  const unsteady: Unsteady = {
    real,
    away: undefined,
    only: undefined,
    calls: 0,
    until: undefined,
    healsAfter: Number.POSITIVE_INFINITY,
    hangs: false,
    store: {
      get: (id) => operation("get", () => real.get(id)),
      set: (id, session, options) => operation("set", () => real.set(id, session, options)),
      create: (id, session, options) => operation("create", () => real.create(id, session, options)),
      delete: (id) => operation("delete", () => real.delete(id)),
      exists: (id) => operation("exists", () => real.exists(id)),
      extendTtl: (id, ttl) => operation("extendTtl", () => real.extendTtl(id, ttl)),
      getAndTouch: (id, ttl) => operation("getAndTouch", () => real.getAndTouch(id, ttl)),
      update: (id, f, options) => operation("update", () => real.update(id, f, options)),
      rotate: (id, to) => operation("rotate", () => real.rotate(id, to)),
      deleteMany: (ids) => operation("deleteMany", () => real.deleteMany(ids)),
      sessionsOf: (owner) => operation("sessionsOf", () => real.sessionsOf(owner)),
      deleteAllOf: (owner) => operation("deleteAllOf", () => real.deleteAllOf(owner)),
      cleanUp: (options) => operation("cleanUp", () => real.cleanUp(options)),
      events: real.events
    }
  }
  return unsteady
}

export const memory = (options: SessionStore.MemoryOptions = {}) =>
  Effect.map(Layer.build(SessionStore.layerMemory(options)), (context) =>
    over(Context.get(context, SessionStore.SessionStore))
  )
