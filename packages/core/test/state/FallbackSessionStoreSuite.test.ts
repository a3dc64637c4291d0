import { describe, it } from "@effect/vitest"
import { FallbackSessionStore, ResilientSessionStore, SessionStore } from "@underlay/core"
import { SessionStoreModel, SessionStoreSuite, Suite } from "@underlay/core/testing"
import { Context, Effect, Exit, Layer, Schedule, Scope, TestClock } from "effect"
import * as Unsteady from "./unsteady.ts"

const advance = TestClock.adjust

const settle = Effect.repeatN(Effect.yieldNow(), 200)

const memory = (options: SessionStore.Options = {}) =>
  Effect.map(Layer.build(SessionStore.layerMemory(options)), Context.get(SessionStore.SessionStore))

describe("ResilientSessionStore round a store in memory", () => {
  const make = (options: SessionStore.Options = {}) =>
    Effect.flatMap(memory(options), (store) => ResilientSessionStore.make(store))
  const suite = SessionStoreSuite.make({ advance, store: make })
  for (const one of Suite.applicable(suite, ["options"])) {
    it.scoped(one.name, () => Effect.provideServiceEffect(one.run, SessionStore.SessionStore, make()))
  }
})

describe("FallbackSessionStore round a store in memory that is there", () => {
  const make = (options: SessionStore.Options = {}) =>
    Effect.flatMap(memory(options), (store) =>
      Effect.map(FallbackSessionStore.make(store, options), (fallback) => fallback.store)
    )
  const suite = SessionStoreSuite.make({ advance, store: make })
  for (const one of Suite.applicable(suite, ["options"])) {
    it.scoped(one.name, () => Effect.provideServiceEffect(one.run, SessionStore.SessionStore, make()))
  }
})

describe("FallbackSessionStore while its store is away", () => {
  const make = (options: SessionStore.Options = {}) =>
    Effect.gen(function* () {
      const unsteady = yield* Unsteady.memory(options)
      unsteady.away = "refuses"
      const fallback = yield* FallbackSessionStore.make(unsteady.store, {
        ...options,
        unknown: "none",
        // it is known to stay away, and each attempt of hours costs the test a moment
        probe: Schedule.spaced("1000 days")
      })
      yield* Effect.ignore(fallback.store.exists("nothing"))
      yield* settle
      return fallback.store
    })
  const suite = SessionStoreSuite.make({ advance, store: make })
  // what is done to the store alone cannot be done while it is away
  const cases = Suite.applicable(suite, ["options"]).filter((one) => !/clean/i.test(one.name))
  for (const one of cases) {
    it.scoped(one.name, () => Effect.provideServiceEffect(one.run, SessionStore.SessionStore, make()))
  }
})

/**
 * A store that goes away and comes back between operations, in every way there is, as a random sequence wants it. Time
 * passes only while it is there and everything is replayed: the fallback is not to be told from the store at all then.
 */
const flapping = (touchWhen: number, seed: () => number) =>
  Effect.gen(function* () {
    const unsteady = yield* Unsteady.memory({ touchWhen })
    const fallback = yield* FallbackSessionStore.make(unsteady.store, {
      touchWhen,
      unknown: "none",
      recentFor: "365 days",
      probe: Schedule.spaced("1 millis")
    })
    let state = seed()
    const random = (): number => {
      state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
      return state / 2 ** 32
    }
    const heal = Effect.gen(function* () {
      unsteady.away = undefined
      for (let round = 0; (yield* fallback.mode) !== "store"; round++) {
        if (round > 1_000) return yield* Effect.dieMessage("it does not come back")
        yield* Effect.yieldNow()
        // one process, and time stands still: there is nothing to lose
        const { dropped } = yield* fallback.stats
        if (dropped > 0) return yield* Effect.dieMessage(`dropped: ${JSON.stringify(yield* fallback.lastReport)}`)
        yield* round % 20 === 19 ? TestClock.adjust("1 millis") : Effect.void
      }
    })
    const turn = Effect.suspend(() => {
      const dice = random()
      if (dice < 0.15) unsteady.away = "refuses"
      else if (dice < 0.3) unsteady.away = "hangs up before"
      else if (dice < 0.45) unsteady.away = "hangs up after"
      else if (dice < 0.75) unsteady.away = undefined
      return dice > 0.9 ? settle : Effect.void
    })
    const { store } = fallback
    const deleted = new Set<string>()
    const before = <A, E>(effect: Effect.Effect<A, E>) => Effect.zipRight(turn, effect)
    return {
      heal,
      store: {
        ...store,
        get: (id) => before(store.get(id)),
        set: (id, session, options) => before(store.set(id, session, options)),
        create: (id, session, options) =>
          Effect.catchIf(
            // of an id that was deleted within the minute nobody could say whose the tombstone is: that is given up
            before(
              Effect.suspend(() => {
                if (unsteady.away !== undefined && deleted.has(id)) unsteady.away = "refuses"
                return store.create(id, session, options)
              })
            ),
            // this process has such a session, and nobody knows whether the store did
            (error) => error.outcome === "unknown",
            () => Effect.zipRight(heal, store.create(id, session, options))
          ),
        delete: (id) => {
          deleted.add(id)
          return before(store.delete(id))
        },
        exists: (id) => before(store.exists(id)),
        extendTtl: (id, ttl) => before(store.extendTtl(id, ttl)),
        getAndTouch: (id, ttl) => before(store.getAndTouch(id, ttl)),
        update: (id, f, options) => before(store.update(id, f, options)),
        rotate: (id, to) =>
          // of what this process does not know nobody can say how it ended: asked again, for there is no such session
          Effect.catchIf(
            Effect.tap(before(store.rotate(id, to)), () => Effect.sync(() => deleted.add(id))),
            (error) => error.outcome === "unknown",
            () => Effect.zipRight(heal, store.rotate(id, to))
          ),
        deleteMany: (ids) => {
          for (const id of ids) deleted.add(id)
          return before(store.deleteMany(ids))
        },
        sessionsOf: (owner) => before(store.sessionsOf(owner)),
        deleteAllOf: (owner) =>
          Effect.zipRight(
            Effect.flatMap(unsteady.real.sessionsOf(owner), (sessions) =>
              Effect.sync(() => {
                for (const { id } of sessions) deleted.add(id)
              })
            ),
            before(store.deleteAllOf(owner))
          ),
        cleanUp: () => Effect.succeed({ scanned: 0, corrupt: 0, orphaned: 0, immortal: 0 })
      } satisfies SessionStore.Service
    }
  })

describe("FallbackSessionStore against the model of a session store", () => {
  for (const touchWhen of [0, 0.05]) {
    it.scoped(`an application does not notice outages between its operations, touchWhen ${touchWhen}`, () => {
      let runs = 0
      let heal: Effect.Effect<void> = Effect.void
      let scope = Effect.runSync(Scope.make())
      return SessionStoreModel.property({
        store: Effect.gen(function* () {
          // what the run before left behind would go on asking for its store
          yield* heal
          yield* Scope.close(scope, Exit.void)
          scope = yield* Scope.make()
          const made = yield* Scope.extend(
            flapping(touchWhen, () => runs++ * 7_919),
            scope
          )
          heal = made.heal
          return made.store
        }),
        advance: (duration) =>
          Effect.zipRight(
            Effect.suspend(() => heal),
            TestClock.adjust(duration)
          ),
        touchWhen,
        runs: 20,
        shrink: false
      })
    })
  }
})
