import { assert, describe, it } from "@effect/vitest"
import { ErrorClass, Fallback } from "@underlay/core"
import {
  Cause,
  Chunk,
  Context,
  Data,
  Deferred,
  Duration,
  Effect,
  Either,
  Exit,
  FastCheck,
  Fiber,
  Option,
  Ref,
  Stream,
  TestClock
} from "effect"
import { reasonOf } from "../../src/internal/resilience/fallbackReason.ts"
import { StaleValues } from "../../src/internal/resilience/staleValues.ts"

class Down extends Data.TaggedError("Down")<{ readonly code: number }> {}
class Refused extends Data.TaggedError("Refused") {}
class Broken extends Data.TaggedError("Broken") {}

const down: Effect.Effect<string, Down | Refused> = Effect.fail(new Down({ code: 503 }))
const refused: Effect.Effect<string, Down | Refused> = Effect.fail(new Refused())
const fine: Effect.Effect<string, Down | Refused> = Effect.succeed("fresh")
const isDown = (error: Down | Refused): error is Down => error._tag === "Down"

/** Both ways of writing it, with the types that are to be inferred. */
type Typed<A, E, R = never> = Effect.Effect<A, E, R>

describe("Fallback", () => {
  it.effect("value: answers in place of any error, and not when the call succeeds", () =>
    Effect.gen(function* () {
      const direct: Typed<string | number, never> = Fallback.run(down, Fallback.value(0))
      const piped: Typed<string | number, never> = down.pipe(Fallback.run(Fallback.value(0)))
      assert.strictEqual(yield* direct, 0)
      assert.strictEqual(yield* piped, 0)
      assert.strictEqual(yield* Fallback.run(fine, Fallback.value(0)), "fresh")
    })
  )

  it.effect("effect: is told the error, may need services and may fail in its own way, which is all that is left", () =>
    Effect.gen(function* () {
      class Replica extends Context.Tag("test/Replica")<Replica, { readonly name: string }>() {}
      const other = Fallback.effect((error: Down | Refused) =>
        error._tag === "Down"
          ? Effect.map(Replica, (replica) => `${replica.name} ${error.code}`)
          : Effect.fail(new Broken())
      )
      const direct: Typed<string, Broken, Replica> = Fallback.run(down, other)
      const piped: Typed<string, Broken, Replica> = refused.pipe(Fallback.run(other))
      const provide = Effect.provideService(Replica, { name: "replica" })
      assert.strictEqual(yield* provide(direct), "replica 503")
      assert.strictEqual((yield* provide(Effect.flip(piped)))._tag, "Broken")
    })
  )

  it.effect("when: other errors pass as they were", () =>
    Effect.gen(function* () {
      const some: Fallback.Fallback<Down | Refused, number, Refused> = Fallback.when(isDown, Fallback.value(0))
      const passed: Typed<string | number, Refused> = Fallback.run(refused, some)
      assert.strictEqual(yield* Fallback.run(down, some), 0)
      assert.strictEqual((yield* Effect.flip(passed))._tag, "Refused")
      const predicate: Fallback.Fallback<Down, number, Down> = Fallback.when(
        (error: Down) => error.code === 503,
        Fallback.value(0)
      )
      assert.strictEqual(yield* Fallback.run(Effect.fail(new Down({ code: 503 })), predicate), 0)
      // with all that was known of it: the cause is the very same
      const cause = Cause.parallel(Cause.fail(new Down({ code: 404 })), Cause.fail(new Down({ code: 500 })))
      const exit = yield* Effect.exit(Fallback.run(Effect.failCause(cause), predicate).pipe(Effect.withSpan("x")))
      assert.isTrue(Exit.isFailure(exit) && exit.cause === cause)
    })
  )

  it.effect("an error that the fallback fails with again under a span is not taken for its own reason", () =>
    Effect.gen(function* () {
      const again = Fallback.effect((error: Down | Refused) => Effect.fail(error))
      const error = yield* Effect.flip(Fallback.run(down, again)).pipe(Effect.withSpan("x"))
      assert.isUndefined(Fallback.reason(error))
      assert.isUndefined(error.cause)
    })
  )

  it.effect("the error that led to a fallback which fails too is its cause, and is shown", () =>
    Effect.gen(function* () {
      const constant = new Broken()
      const broken = Fallback.effect(() => Effect.fail(constant))
      const error = yield* Effect.flip(Fallback.run(down, broken))
      assert.instanceOf(error, Broken)
      assert.strictEqual(error._tag, "Broken")
      assert.instanceOf(error.cause, Down)
      assert.strictEqual(Fallback.reason(error), error.cause)
      assert.isTrue("cause" in error)
      const pretty = Cause.pretty(Cause.fail(error), { renderErrorCause: true })
      assert.include(pretty, "Broken")
      assert.include(pretty, "Down")
      // a constant carries nothing from one call to the next
      assert.isUndefined(constant.cause)
      assert.isUndefined(Fallback.reason(constant))
      // under spans, too
      const spanned = yield* Effect.flip(Fallback.run(down, broken).pipe(Effect.withSpan("x")))
      assert.instanceOf(Fallback.reason(spanned), Down)
    })
  )

  it.effect("an error of the fallback that has a cause keeps it; the reason is still known", () =>
    Effect.gen(function* () {
      const own = new Error("disk", { cause: "no space" })
      const error = yield* Effect.flip(
        Fallback.run(
          down,
          Fallback.effect(() => Effect.fail(own))
        )
      )
      assert.strictEqual(error.cause, "no space")
      assert.instanceOf(Fallback.reason(error), Down)
      // one that has none for good can be read all the same
      const frozen = Object.freeze({ _tag: "Frozen", cause: undefined })
      const other = yield* Effect.flip(
        Fallback.run(
          down,
          Fallback.effect(() => Effect.fail(frozen))
        )
      )
      assert.isUndefined(other.cause)
      assert.instanceOf(Fallback.reason(other), Down)
    })
  )

  it.effect("an error of the fallback that is no object stands in the cause with its reason, and is caught first", () =>
    Effect.gen(function* () {
      const ran: Typed<string, string> = Fallback.run(
        down,
        Fallback.effect(() => Effect.fail("broken"))
      )
      const exit = yield* Effect.exit(ran)
      const failures = Exit.isFailure(exit) ? Chunk.toArray(Cause.failures<unknown>(exit.cause)) : []
      assert.strictEqual(failures[0], "broken")
      assert.instanceOf(failures[1], Down)
      assert.strictEqual(yield* Effect.flip(ran), "broken")
    })
  )

  it.effect("a fallback that dies: the defect tells the reason, and the error does not come back as one to catch", () =>
    Effect.gen(function* () {
      const bug = Fallback.effect(() => Effect.die(new TypeError("x is not a function")))
      const exit = yield* Effect.exit(Fallback.run(down, bug))
      const cause = Exit.isFailure(exit) ? exit.cause : Cause.empty
      assert.isTrue(Option.isNone(Cause.failureOption(cause)))
      const defect = Option.getOrUndefined(Cause.dieOption(cause))
      assert.instanceOf(defect, TypeError)
      assert.instanceOf(reasonOf(defect), Down)
      // thrown while the fallback was asked
      const thrown = Fallback.effect((): Effect.Effect<string> => {
        throw new TypeError("thrown")
      })
      const other = yield* Effect.exit(Fallback.run(down, thrown))
      assert.isTrue(Exit.isFailure(other) && Cause.isDie(other.cause))
      const text = yield* Effect.exit(
        Fallback.run(
          down,
          Fallback.effect(() => Effect.die("text"))
        )
      )
      assert.deepStrictEqual(text, Exit.die("text"))
    })
  )

  it.effect("interruption is never swallowed: of the call, of the fallback, or beside an error of another branch", () =>
    Effect.gen(function* () {
      const asked = yield* Ref.make(0)
      const counting = Fallback.effect((_: unknown) => Ref.updateAndGet(asked, (count) => count + 1))
      const inner = yield* Effect.exit(Fallback.run(Effect.interrupt, counting))
      assert.isTrue(Exit.isInterrupted(inner))
      const fiber = yield* Effect.fork(Fallback.run(Effect.never, counting))
      yield* Effect.yieldNow()
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(fiber)))
      const withDefects = yield* Effect.exit(Fallback.run(Effect.interrupt, Fallback.withDefects(counting)))
      assert.isTrue(Exit.isInterrupted(withDefects))
      assert.strictEqual(yield* Ref.get(asked), 0)
      // one branch fails, and the others are interrupted for it: that is an error
      const branches = Effect.all([Effect.never, Effect.fail("one")], { concurrency: "unbounded" })
      assert.strictEqual(yield* Fallback.run(branches, counting), 1)
      const began = yield* Deferred.make<void>()
      const hanging = Fallback.effect(() => Effect.zipRight(Deferred.succeed(began, undefined), Effect.never))
      const second = yield* Effect.fork(Fallback.run(down, hanging))
      yield* Deferred.await(began)
      assert.isTrue(Exit.isInterrupted(yield* Fiber.interrupt(second)))
    })
  )

  it.effect("defects are recovered from only where it is asked for; one beside an error stays a defect", () =>
    Effect.gen(function* () {
      const bug = new TypeError("x is not a function")
      const plain = yield* Effect.exit(Fallback.run(Effect.die(bug), Fallback.value(0)))
      assert.deepStrictEqual(plain, Exit.die(bug))
      const tell = Fallback.effect((error: unknown) => Effect.succeed(error))
      assert.strictEqual(yield* Fallback.run(Effect.die(bug), Fallback.withDefects(tell)), bug)
      const both = Cause.sequential(Cause.fail(new Refused()), Cause.die(bug))
      const exit = yield* Effect.exit(Fallback.run(Effect.failCause(both), tell))
      const defects = Exit.isFailure(exit) ? Chunk.toArray(Cause.defects(exit.cause)) : []
      assert.instanceOf(defects[0], Refused)
      assert.strictEqual(defects[1], bug)
      assert.isTrue(Exit.isFailure(exit) && Option.isNone(Cause.failureOption(exit.cause)))
      assert.instanceOf(yield* Fallback.run(Effect.failCause(both), Fallback.withDefects(tell)), Refused)
    })
  )

  it.effect("orElse: the second where the first one fails, which may not need it", () =>
    Effect.gen(function* () {
      const first = Fallback.effect((error: Down | Refused) =>
        error._tag === "Down" ? Effect.succeed("replica") : Effect.fail(new Broken())
      )
      const second = Fallback.effect((error: Broken) => Effect.succeed(error))
      const both: Fallback.Fallback<Down | Refused, string | Broken> = Fallback.orElse(first, second)
      assert.strictEqual(yield* Fallback.run(down, both), "replica")
      const told = yield* Fallback.run(refused, both)
      assert.isTrue(told instanceof Broken && told.cause instanceof Refused)
    })
  )

  it.effect("the class of an error that says nothing of itself is that of its reason", () =>
    Effect.gen(function* () {
      const busy = Effect.fail({ _tag: "Busy", isRetryable: true })
      const error = yield* Effect.flip(
        Fallback.run(
          busy,
          Fallback.effect(() => Effect.fail(new Broken()))
        )
      )
      assert.strictEqual(ErrorClass.classify(error).class, "transient")
    })
  )

  it.effect("it is recognised and says what it does", () =>
    Effect.gen(function* () {
      const last = yield* Fallback.stale<string>({ capacity: 1, maxAge: "1 minute" })
      assert.strictEqual(
        Fallback.orElse(last.for<Down>("a"), Fallback.value("")).description,
        "the last good answer, at most 1m old, or else a value"
      )
      const described = Fallback.when((_: unknown) => true, Fallback.withDefects(Fallback.effect(() => Effect.void)))
      assert.strictEqual(described.description, "an effect, for defects too for some errors")
      assert.isTrue(described.defects)
      assert.isTrue(Fallback.isFallback(described))
      assert.isFalse(Fallback.isFallback({ recover: () => Effect.void }))
    })
  )
})

describe("Fallback.stale", () => {
  const make = Fallback.stale<string>({ capacity: 2, maxAge: "1 minute" })

  it.effect("serves the last good answer of the same key until it is too old; then the error passes", () =>
    Effect.gen(function* () {
      const last = yield* make
      const direct: Typed<string, Down | Refused> = Fallback.run(down, last.for("a"))
      const piped: Typed<string, Down | Refused> = down.pipe(Fallback.run(last.for("a")))
      assert.strictEqual((yield* Effect.flip(direct))._tag, "Down")
      assert.strictEqual(yield* Fallback.run(fine, last.for("a")), "fresh")
      yield* TestClock.adjust("59 seconds")
      assert.strictEqual(yield* direct, "fresh")
      assert.strictEqual(yield* piped, "fresh")
      assert.strictEqual((yield* Effect.flip(Fallback.run(down, last.for("b"))))._tag, "Down")
      // being served makes nothing younger
      yield* TestClock.adjust("1 seconds")
      assert.strictEqual((yield* Effect.flip(direct))._tag, "Down")
      assert.isTrue(Option.isNone(yield* last.get("a")))
    })
  )

  it.effect("what is served can be told from what is fresh: by its age, by the callback, in the answer itself", () =>
    Effect.gen(function* () {
      const served = yield* Ref.make<ReadonlyArray<string>>([])
      const last = yield* Fallback.stale<string>({
        capacity: 2,
        maxAge: "1 minute",
        onServed: (each) =>
          Ref.update(served, (all) => [...all, `${each.key} ${each.value} ${Duration.format(each.age)} ${each.error}`])
      })
      yield* Fallback.run(fine, last.for("a"))
      yield* TestClock.adjust("10 seconds")
      const marked: Typed<string | { readonly old: string; readonly age: number }, Down | Refused> = Fallback.run(
        down,
        last.for("a", (each) => ({ old: each.value, age: Duration.toMillis(each.age) }))
      )
      assert.deepStrictEqual(yield* marked, { old: "fresh", age: 10_000 })
      assert.lengthOf(yield* Ref.get(served), 1)
      assert.match((yield* Ref.get(served))[0] ?? "", /^a fresh 10s .*Down/)
      const known = yield* last.get("a")
      assert.deepStrictEqual(known, Option.some({ value: "fresh", age: Duration.seconds(10) }))
    })
  )

  it.effect("holds no more keys than its capacity, those used last; forget forgets", () =>
    Effect.gen(function* () {
      const last = yield* make
      const store = (key: string) => Fallback.run(Effect.succeed(key), last.for(key))
      yield* store("a")
      yield* store("b")
      yield* Fallback.run(down, last.for("a"))
      yield* store("c")
      assert.strictEqual(yield* last.size, 2)
      const known = yield* Effect.forEach(["a", "b", "c"], (key) => Effect.map(last.get(key), Option.isSome))
      assert.deepStrictEqual(known, [true, false, true])
      yield* last.forget("a")
      assert.isTrue(Option.isNone(yield* last.get("a")))
    })
  )

  it.effect("or else a value: a default where nothing is kept", () =>
    Effect.gen(function* () {
      const last = yield* make
      const both = Fallback.orElse(last.for<Down | Refused>("a"), Fallback.value("default"))
      const ran: Typed<string, never> = Fallback.run(down, both)
      assert.strictEqual(yield* ran, "default")
      yield* Fallback.run(fine, both)
      assert.strictEqual(yield* ran, "fresh")
      assert.strictEqual(yield* Fallback.run(down, last.for("a")), "fresh")
    })
  )

  it.effect("when: only certain errors are answered with what is old, but every success is kept", () =>
    Effect.gen(function* () {
      const last = yield* make
      const some = Fallback.when(isDown, last.for<Down>("a"))
      yield* Fallback.run(fine, some)
      assert.strictEqual(yield* Fallback.run(down, some), "fresh")
      assert.strictEqual((yield* Effect.flip(Fallback.run(refused, some)))._tag, "Refused")
    })
  )

  it("takes only what it can keep", () => {
    const last = Effect.runSync(Fallback.stale<string>({ capacity: 1, maxAge: 1 }))
    const refused = [
      // @ts-expect-error: a number is not kept among texts
      Fallback.run(Effect.succeed(1), last.for("a")),
      // @ts-expect-error: the same in a pipe
      Effect.succeed(1).pipe(Fallback.run(last.for("a")))
    ]
    assert.lengthOf(refused, 2)
    assert.strictEqual(Effect.runSync(last.size), 0)
  })

  it("keeps what a plain model keeps, and serves nothing older than it may, when the clock steps back too", () => {
    const command = FastCheck.record({
      type: FastCheck.constantFrom("set", "get", "get", "delete"),
      key: FastCheck.constantFrom("a", "b", "c", "d"),
      step: FastCheck.oneof(
        { weight: 6, arbitrary: FastCheck.integer({ min: 0, max: 60 }) },
        { weight: 1, arbitrary: FastCheck.integer({ min: -500, max: -1 }) }
      )
    })
    FastCheck.assert(
      FastCheck.property(FastCheck.array(command, { maxLength: 100 }), (commands) => {
        const maxAge = 100
        const capacity = 3
        const values = new StaleValues<number>(capacity, maxAge)
        // By use, the last one last; what is too old takes a place until it is met. What was too old once may be gone
        // already, also where the clock then steps back.
        const model = new Map<string, { value: number; since: number; overdue: boolean }>()
        const last = new Map<string, number>()
        const keep = (key: string, value: number, since: number): void => {
          model.delete(key)
          const [oldest] = model.keys()
          if (model.size === capacity && oldest !== undefined) model.delete(oldest)
          model.set(key, { value, since, overdue: false })
        }
        let now = 10_000
        let stored = 0
        for (const { key, step, type } of commands) {
          now += step
          for (const kept of model.values()) if (now - kept.since >= maxAge) kept.overdue = true
          if (type === "set") {
            stored++
            values.set(key, stored, now)
            keep(key, stored, now)
            last.set(key, stored)
          } else if (type === "delete") {
            values.delete(key, now)
            model.delete(key)
            last.delete(key)
          } else {
            const found = values.get(key, now)
            const known = model.get(key)
            if (found !== undefined) {
              assert.strictEqual(found.value, last.get(key))
              assert.isTrue(found.age >= 0 && found.age < maxAge)
            }
            if (known !== undefined && now - known.since < maxAge && !(known.overdue && found === undefined)) {
              assert.deepStrictEqual(found, { value: known.value, age: Math.max(0, now - known.since) })
              keep(key, known.value, Math.min(known.since, now))
            } else if (found !== undefined) {
              // Pushed out of the model by one that was too old, which is gone here.
              keep(key, found.value, now - found.age)
            } else {
              model.delete(key)
            }
          }
          assert.isAtMost(values.size, capacity)
        }
      })
    )
  })

  it("a clock that was set back makes a value live at most once more as long, not until it has caught up", () => {
    const values = new StaleValues<string>(1, 100)
    values.set("a", "old", 1_000_000)
    assert.deepStrictEqual(values.get("a", 1_000), { value: "old", age: 0 })
    assert.deepStrictEqual(values.get("a", 1_099), { value: "old", age: 99 })
    assert.isUndefined(values.get("a", 1_100))
  })

  it.effect("settings that cannot work are named with the fix", () =>
    Effect.gen(function* () {
      const wrong = (options: Fallback.StaleOptions) =>
        Effect.map(Effect.exit(Fallback.stale(options)), (exit) =>
          Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "fine"
        )
      for (const capacity of [0, 1.5, Number.NaN]) {
        assert.include(
          yield* wrong({ capacity, maxAge: 1 }),
          `Fallback: capacity is ${capacity}: give a whole number of 1 or more`
        )
      }
      assert.include(yield* wrong({ capacity: 1, maxAge: 0 }), "Fallback: maxAge is not positive")
      assert.strictEqual(yield* wrong({ capacity: 1, maxAge: Duration.infinity }), "fine")
    })
  )
})

describe("Fallback.runStream", () => {
  const another = Fallback.value(Stream.make("x", "y"))
  const broken: Stream.Stream<string, Down> = Stream.concat(Stream.make("a"), Stream.fail(new Down({ code: 1 })))
  const read = <A, E>(stream: Stream.Stream<A, E>) => Effect.map(Stream.runCollect(stream), Chunk.toArray)

  it.effect("another stream in place of one that fails before its first element, empty chunks not being one", () =>
    Effect.gen(function* () {
      const failed: Stream.Stream<string, Down> = Stream.fail(new Down({ code: 1 }))
      assert.deepStrictEqual(yield* read(Fallback.runStream(failed, another)), ["x", "y"])
      const late = Stream.concat(Stream.fromChunk(Chunk.empty<string>()), failed)
      assert.deepStrictEqual(yield* read(late.pipe(Fallback.runStream(another))), ["x", "y"])
      assert.deepStrictEqual(yield* read(Fallback.runStream(Stream.make("a", "b"), another)), ["a", "b"])
      assert.deepStrictEqual(yield* read(Fallback.runStream(Stream.empty, another)), [])
    })
  )

  it.effect("a failure after the first element is the reader's to see", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const error = yield* Fallback.runStream(broken, another).pipe(
        Stream.runForEach((each) => Effect.sync(() => seen.push(each))),
        Effect.flip
      )
      assert.strictEqual(error._tag, "Down")
      assert.deepStrictEqual(seen, ["a"])
    })
  )

  it.effect("each run of the stream begins anew", () =>
    Effect.gen(function* () {
      let runs = 0
      const once = Stream.suspend(() => (runs++ === 0 ? broken : Stream.fail(new Down({ code: 2 }))))
      const stream = Fallback.runStream(once, another)
      assert.strictEqual((yield* Effect.flip(read(stream)))._tag, "Down")
      assert.deepStrictEqual(yield* read(stream), ["x", "y"])
    })
  )

  it.effect("defects and interruptions pass; a fallback that fails tells the reason", () =>
    Effect.gen(function* () {
      const died = yield* Effect.exit(read(Fallback.runStream(Stream.die("bug"), another)))
      assert.deepStrictEqual(died, Exit.die("bug"))
      const interrupted = yield* Effect.exit(read(Fallback.runStream(Stream.fromEffect(Effect.interrupt), another)))
      assert.isTrue(Exit.isInterrupted(interrupted))
      const failing: Fallback.StreamFallback<Down, string, Broken> = Fallback.effect((_: Down) =>
        Effect.fail(new Broken())
      )
      const failed: Stream.Stream<string, Down> = Stream.fail(new Down({ code: 1 }))
      const result = yield* Effect.either(read(Fallback.runStream(failed, failing)))
      assert.isTrue(Either.isLeft(result) && result.left._tag === "Broken" && result.left.cause instanceof Down)
    })
  )

  it.effect("what the failed stream held is let go of, once, and the fallback's at its end", () =>
    Effect.gen(function* () {
      const log: Array<string> = []
      const held = (name: string) =>
        Stream.acquireRelease(
          Effect.sync(() => log.push(`open ${name}`)),
          () => Effect.sync(() => log.push(`close ${name}`))
        )
      const first = Stream.flatMap(held("first"), (): Stream.Stream<string, string> => Stream.fail("down"))
      const second = Fallback.value(Stream.flatMap(held("second"), () => Stream.make("x")))
      assert.deepStrictEqual(yield* read(Fallback.runStream(first, second)), ["x"])
      assert.deepStrictEqual([...log].sort(), ["close first", "close second", "open first", "open second"])
    })
  )
})
