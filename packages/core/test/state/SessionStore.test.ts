import { assert, describe, it } from "@effect/vitest"
import { SessionEvents, SessionStore, SessionTtl } from "@underlay/core"
import { Recording, SessionStoreModel } from "@underlay/core/testing"
import { Context, Duration, Effect, Fiber, Layer, Logger, LogLevel, Option, Schema, Stream, TestClock } from "effect"

const build = (options: SessionStore.MemoryOptions = {}) =>
  Effect.map(Layer.build(SessionStore.layerMemory(options)), Context.get(SessionStore.SessionStore))

/** The log lines of an effect, at every level. */
const logged = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const lines: Array<string> = []
    const logger = Logger.make(({ logLevel, message }) => {
      lines.push(`${logLevel.label} ${JSON.stringify(message)}`)
    })
    return Effect.as(
      effect.pipe(
        Logger.withMinimumLogLevel(LogLevel.All),
        Effect.provide(Logger.replace(Logger.defaultLogger, logger))
      ),
      lines
    )
  })

const Visit = Schema.Struct({ count: Schema.Number })

const settle = Effect.repeatN(Effect.yieldNow(), 50)

describe("a session store against its model", () => {
  for (const touchWhen of [0, 0.05, 0.5]) {
    it.scoped(`does what the model does, touchWhen ${touchWhen}`, () =>
      SessionStoreModel.property({
        store: build({ touchWhen }),
        advance: TestClock.adjust,
        touchWhen,
        runs: 50
      })
    )
  }

  it.scoped(
    "and a store that does not is found",
    () =>
      Effect.gen(function* () {
        const broken: ReadonlyArray<(store: SessionStore.Service) => Partial<SessionStore.Service>> = [
          // a session comes back after its deletion
          (store) => ({ set: (id, session, options) => Effect.asVoid(store.create(id, session, options)) }),
          // a touch does nothing
          (store) => ({ getAndTouch: store.get }),
          // an update that gives the session its default time anew
          (store) => ({ update: (id, f, options) => store.update(id, f, { ttl: "30 minutes", ...options }) }),
          // a rotation that leaves the owner out
          (store) => ({
            rotate: (id, to) =>
              Effect.zipRight(Effect.ignore(store.update(id, ({ user_id: _, ...rest }) => rest)), store.rotate(id, to))
          })
        ]
        for (const breakIt of broken) {
          const failure = yield* Effect.flip(
            SessionStoreModel.property({
              store: Effect.map(build({ touchWhen: 0 }), (store) => ({ ...store, ...breakIt(store) })),
              advance: TestClock.adjust,
              touchWhen: 0,
              // it stops at the first that tells: some faults are rare among random histories
              runs: 5_000,
              shrink: false
            })
          )
          assert.match(failure.actual, /expected .*, got /)
        }
      }),
    120_000
  )
})

describe("updates that meet each other", () => {
  /** A backend of one session, as slow as a wire, that counts its writes. */
  const slow = () => {
    const counts = { tries: 0 }
    let text = '{"n":0,"last_activity":""}'
    const unused = () => Effect.dieMessage("not used here")
    const turn = <A>(f: () => A) => Effect.zipRight(Effect.sleep("1 millis"), Effect.sync(f))
    const backend: SessionStore.Backend = {
      get: () => turn(() => text),
      replace: ({ expected, json }) =>
        turn((): SessionStore.Replaced => {
          counts.tries++
          if (expected !== text) return { _tag: "Changed", current: text }
          text = json
          return { _tag: "Done" }
        }),
      isGone: () => Effect.succeed(false),
      getAndTouch: unused,
      set: unused,
      create: unused,
      delete: unused,
      exists: unused,
      extendTtl: unused,
      rotate: unused,
      owned: unused,
      disown: unused,
      cleanUp: unused
    }
    return Effect.map(SessionStore.make(backend), (store) => ({ store, counts }))
  }
  const increment = (session: SessionStore.Session) => ({ ...session, n: Number(session["n"]) + 1 })

  it.effect("a hundred of them take a few hundred tries, not thousands", () =>
    Effect.gen(function* () {
      const { counts, store } = yield* slow()
      const all = yield* Effect.fork(
        Effect.forEach(Array.from({ length: 100 }), () => store.update("a", increment), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(all)
      assert.strictEqual(Option.getOrThrow(yield* joined(store.get("a")))["n"], 100)
      assert.isBelow(counts.tries, 400)
    })
  )

  it.effect("those that are interrupted while they wait hold nobody up, and leave nothing behind", () =>
    Effect.gen(function* () {
      const { counts, store } = yield* slow()
      const all = yield* Effect.replicateEffect(Effect.fork(store.update("a", increment)), 30)
      yield* TestClock.adjust("4 millis")
      yield* Fiber.interruptAll(all.filter((_, index) => index % 2 === 1))
      yield* TestClock.adjust("10 seconds")
      yield* Effect.forEach(all, Fiber.await)
      const before = counts.tries
      yield* joined(store.update("a", increment))
      assert.strictEqual(counts.tries, before + 1, "nobody is in its way any more")
      const done = Option.getOrThrow(yield* joined(store.get("a")))["n"]
      assert.isTrue(Number(done) >= 16 && Number(done) <= 31)
    })
  )

  /** The result of an effect that sleeps. */
  const joined = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(effect)
      yield* TestClock.adjust("1 second")
      return yield* Fiber.join(fiber)
    })
})

describe("SessionEvents", () => {
  it.scoped("the log layer: created and expired are information, corruption an error, another format a warning", () =>
    Effect.gen(function* () {
      const lines = yield* logged(
        Effect.gen(function* () {
          const store = yield* SessionStore.SessionStore
          yield* store.create("secret-id-1", { user_id: "u" }, { ttl: "1 minute" })
          yield* TestClock.adjust("2 minutes")
          yield* store.get("secret-id-1")
          yield* store.set("secret-id-2", {})
          yield* store.rotate("secret-id-2", "secret-id-3")
          yield* store.delete("secret-id-3")
          yield* store.cleanUp()
          yield* settle
        }).pipe(Effect.provide(SessionEvents.layerLog.pipe(Layer.provideMerge(SessionStore.layerMemory()))))
      )
      assert.deepStrictEqual(lines, [
        'INFO ["session created",{"session":"secr…","user_id":"u"}]',
        'INFO ["session expired",{"session":"secr…","user_id":"u","ttl_seconds":60}]',
        'INFO ["session created",{"session":"secr…"}]',
        'DEBUG ["session rotated",{"session":"secr…","to":"secr…"}]',
        'DEBUG ["session deleted",{"session":"secr…","reason":"request"}]',
        'INFO ["sessions cleaned up",{"scanned":0,"corrupt":0,"orphaned":0,"immortal":0}]'
      ])
      const at = 0
      const others = yield* logged(
        Effect.forEach(
          [
            { _tag: "Corrupt", id: "secret-id", problem: "content", what: "no JSON object", at },
            { _tag: "Corrupt", id: "secret-id", problem: "format", what: "at user_id", at },
            { _tag: "FallbackSwitched", to: "fallback", at },
            { _tag: "FallbackSwitched", to: "store", replayed: 3, dropped: 1, at }
          ] as const,
          SessionEvents.log
        )
      )
      assert.deepStrictEqual(others, [
        'ERROR ["session data corruption",{"session":"secr…","what":"no JSON object"}]',
        'WARN ["invalid session format",{"session":"secr…","what":"at user_id"}]',
        'WARN ["the session store is away: sessions are kept in memory",{}]',
        'WARN ["the session store is back: sessions are kept there again",{"replayed":3,"dropped":1}]'
      ])
      for (const line of [...lines, ...others]) assert.notInclude(line, "secret")
    })
  )

  it.scoped("where the log layer listens, a corrupt entry is one error and no warning beside it", () =>
    Effect.gen(function* () {
      const strict = yield* build()
      const typed = SessionStore.makeTyped(strict, Visit)
      yield* strict.set("a", { count: "many" })
      const warned = yield* logged(Effect.all([typed.get("a"), typed.get("a")]))
      assert.lengthOf(warned, 1)
      assert.match(warned[0] ?? "", /^WARN .*corrupt/)
      const other = SessionStore.makeTyped(strict, Visit)
      const lines = yield* logged(
        Effect.gen(function* () {
          const listener = yield* Effect.fork(Stream.runForEach(other.events, SessionEvents.log))
          yield* settle
          yield* other.get("a")
          yield* other.get("a")
          yield* settle
          yield* Fiber.interrupt(listener)
        })
      )
      assert.deepStrictEqual(lines, [
        `WARN ["invalid session format",{"session":"a…","what":"another shape than the schema's (at count)"}]`
      ])
    })
  )

  it.scoped("without a listener nothing is emitted, and no listener's end leaves anything behind", () =>
    Effect.gen(function* () {
      const hub = yield* SessionEvents.makeHub
      assert.isFalse(hub.isActive())
      const two = yield* Effect.replicateEffect(Effect.fork(Stream.runDrain(hub.stream)), 2)
      yield* settle
      assert.isTrue(hub.isActive())
      yield* Fiber.interruptAll(two)
      assert.isFalse(hub.isActive())
      const store = yield* build()
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          yield* store.create("a", { user_id: "u" })
          yield* store.rotate("a", "b")
          yield* store.deleteAllOf("u")
          yield* store.cleanUp()
        })
      )
    })
  )

  it.scoped("every listener hears everything in order; one that sleeps misses the oldest, and holds nobody up", () =>
    Effect.gen(function* () {
      const hub = yield* SessionEvents.makeHub
      const ids = (count: number) =>
        Effect.fork(
          hub.stream.pipe(
            Stream.take(count),
            Stream.map((event) => (event._tag === "Deleted" ? Number(event.id) : -1)),
            Stream.runCollect,
            Effect.map((chunk) => [...chunk])
          )
        )
      const quick = yield* ids(10)
      const sleeper = yield* Effect.fork(
        hub.stream.pipe(
          Stream.mapEffect((event) => Effect.as(Effect.sleep("1 minute"), event._tag === "Deleted" ? event.id : "")),
          Stream.take(11),
          Stream.runCollect,
          Effect.map((chunk) => [...chunk])
        )
      )
      yield* settle
      const emit = (id: number) => hub.emit({ _tag: "Deleted", id: String(id), reason: "request", at: 0 })
      for (let id = 0; id < 10; id++) emit(id)
      assert.deepStrictEqual(yield* Fiber.join(quick), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
      for (let id = 10; id < 20_000; id++) emit(id)
      yield* TestClock.adjust("1 hour")
      const heard = yield* Fiber.join(sleeper)
      // what it had taken, and then what the backlog still holds
      assert.deepStrictEqual(heard.slice(0, 10).map(Number), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
      assert.isAbove(Number(heard[10]), 10_000, "the oldest are missing")
    })
  )
})

describe("an adaptive touch", () => {
  it.scoped("follows a session that becomes idle, and one that becomes active again", () =>
    Effect.gen(function* () {
      const store = yield* build({ adaptiveTtl: SessionTtl.standard, touchWhen: 0 })
      yield* store.set("a", { n: 0 })
      for (let round = 0; round < 5; round++) {
        yield* TestClock.adjust("10 minutes")
        yield* store.getAndTouch("a")
      }
      // fifty minutes after its last activity: a quarter of an hour
      yield* TestClock.adjust("14 minutes")
      assert.isTrue(yield* store.exists("a"))
      yield* store.update("a", ({ last_activity: _, ...session }) => ({ ...session, n: 1 }))
      yield* store.getAndTouch("a")
      yield* TestClock.adjust("59 minutes")
      assert.isTrue(yield* store.exists("a"), "active again: an hour")
      yield* TestClock.adjust("1 minute")
      assert.isFalse(yield* store.exists("a"))
    })
  )

  it.scoped("never goes beyond the absolute time", () =>
    Effect.gen(function* () {
      const store = yield* build({ adaptiveTtl: () => Duration.hours(2), absoluteTtl: "3 hours" })
      yield* store.set("a", {})
      yield* store.getAndTouch("a")
      yield* TestClock.adjust("110 minutes")
      assert.isTrue(Option.isSome(yield* store.getAndTouch("a")))
      yield* TestClock.adjust("69 minutes")
      assert.isTrue(Option.isSome(yield* store.getAndTouch("a")))
      yield* TestClock.adjust("1 minute")
      assert.isFalse(yield* store.exists("a"))
    })
  )
})

describe("instants of other programs", () => {
  it("a last_activity without a zone is in UTC, as Python's utcnow().isoformat() writes it", () => {
    const at = Date.parse("2025-01-15T10:35:22.456Z")
    const texts = [
      "2025-01-15T10:35:22.456Z",
      "2025-01-15T10:35:22.456",
      "2025-01-15T10:35:22.456789",
      "2025-01-15 10:35:22.456",
      "2025-01-15T12:05:22.456+01:30"
    ]
    for (const last_activity of texts) {
      assert.deepStrictEqual(SessionTtl.lastActivity({ last_activity }), Option.some(at), last_activity)
    }
    assert.deepStrictEqual(
      SessionTtl.lastActivity({ last_activity: "2025-01-15T10:35" }),
      Option.some(Date.parse("2025-01-15T10:35:00.000Z"))
    )
    for (const last_activity of ["", "yesterday", "2025-13-45T00:00:00"]) {
      assert.deepStrictEqual(SessionTtl.lastActivity({ last_activity }), Option.none(), last_activity)
    }
  })
})
