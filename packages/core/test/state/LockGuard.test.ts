/**
 * How the loss of a lock interrupts its work, and nothing else: beside interruptions of the caller, regions that cannot be
 * interrupted, forks, other locks and timeouts. Everything is said twice: of a caller without fibers of its own, whose
 * fiber does the work itself, and of one with some.
 */
import { assert, describe, it } from "@effect/vitest"
import { Lock } from "@underlay/core"
import {
  Cause,
  Effect,
  Either,
  ExecutionStrategy,
  Exit,
  Fiber,
  FiberId,
  FiberRef,
  FastCheck as fc,
  HashSet,
  Option,
  Runtime,
  Scope,
  TestClock,
  TestContext
} from "effect"

/** A store that grants everything, forgets a lock when it is told to, and notes what was given back. */
const store = () => {
  const stolen = new Set<string>()
  const released: Array<string> = []
  let token = 0n
  const holds = ({ key }: Lock.Request) => !stolen.has(key)
  const backend: Lock.Backend = {
    acquire: () => Effect.sync((): Lock.Attempt => ({ _tag: "Granted", token: ++token })),
    renew: (all) => Effect.sync(() => all.map((one) => Either.right(holds(one)))),
    check: (all) => Effect.sync(() => all.map((one) => Either.right(holds(one)))),
    release: (one) =>
      Effect.sync(() => {
        released.push(one.key)
        return holds(one)
      }),
    abandon: () => Effect.void
  }
  return { backend, released, steal: (key: string) => stolen.add(key) }
}

interface World {
  readonly lock: Lock.Service
  readonly released: ReadonlyArray<string>
  /** Takes the lock away and lets the holder find out. */
  readonly lose: (key: string) => Effect.Effect<void>
  /** The caller has a fiber of its own or not. */
  readonly caller: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

const both = (name: string, run: (world: World) => Effect.Effect<void, unknown, never>) => {
  for (const [who, caller] of callers) {
    it.scoped(`${name} (${who})`, () =>
      Effect.gen(function* () {
        const { backend, released, steal } = store()
        const lock = yield* Lock.make(backend)
        const lose = (key: string) =>
          Effect.zipRight(
            Effect.sync(() => steal(key)),
            TestClock.adjust("60 millis")
          )
        yield* run({ lock, released, lose, caller })
      })
    )
  }
}

const callers: ReadonlyArray<readonly [string, World["caller"]]> = [
  ["a caller alone", (effect) => effect],
  ["a caller with a fiber", (effect) => Effect.zipRight(Effect.fork(Effect.never), effect)]
]

const reasonOf = <E>(exit: Exit.Exit<unknown, E>): string => {
  if (Exit.isSuccess(exit)) return "success"
  if (Cause.isInterruptedOnly(exit.cause)) return "interrupted"
  const failure = Cause.failureOption(exit.cause)
  return Option.isSome(failure) && failure.value instanceof Lock.LockError ? failure.value.reason : "other"
}

describe("the loss of a lock", () => {
  both("ends the work, and its caller goes on as if nothing had been", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(
        caller(
          Effect.gen(function* () {
            const first = yield* Effect.exit(lock.withLock("a")(Effect.never))
            const interrupted = yield* FiberRef.get(FiberRef.interruptedCause)
            const token = yield* Effect.serviceOption(Lock.FencingToken)
            yield* Effect.sleep("1 second")
            const second = yield* lock.withLock("b")(Effect.zipRight(Effect.sleep("1 second"), Effect.succeed(2)))
            return { first, interrupted, token, second }
          })
        )
      )
      yield* Effect.yieldNow()
      yield* lose("a")
      yield* TestClock.adjust("2 seconds")
      const { first, interrupted, second, token } = yield* Fiber.join(fiber)
      assert.strictEqual(reasonOf(first), "Lost")
      assert.isTrue(Cause.isEmpty(interrupted))
      assert.isTrue(Option.isNone(token))
      assert.strictEqual(second, 2)
      assert.deepStrictEqual(released, ["a", "b"])
    })
  )

  both("leaves its caller as easy to interrupt as before", ({ caller, lock, lose }) =>
    Effect.gen(function* () {
      let wasLost = false
      const fiber = yield* Effect.fork(
        caller(
          Effect.zipRight(
            Effect.tapError(lock.withLock("a")(Effect.never), () =>
              Effect.sync(() => {
                wasLost = true
              })
            ),
            Effect.never
          ).pipe(Effect.catchAll(() => Effect.never))
        )
      )
      yield* Effect.yieldNow()
      yield* lose("a")
      assert.isTrue(wasLost)
      assert.isNull(fiber.unsafePoll())
      assert.strictEqual(reasonOf(yield* Fiber.interrupt(fiber)), "interrupted")
    })
  )

  both("does not reach the fibers that the caller had before", ({ caller, lock, lose }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(
        caller(
          Effect.gen(function* () {
            const before = yield* Effect.fork(Effect.zipRight(Effect.sleep("1 second"), Effect.succeed("done")))
            const result = yield* Effect.exit(lock.withLock("a")(Effect.never))
            return { result, before: yield* Fiber.join(before) }
          })
        )
      )
      yield* Effect.yieldNow()
      yield* lose("a")
      yield* TestClock.adjust("1 second")
      const { before, result } = yield* Fiber.join(fiber)
      assert.strictEqual(reasonOf(result), "Lost")
      assert.strictEqual(before, "done")
    })
  )

  both("what the work has forked ends with it, and before the lock is given back", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      for (const [key, how] of [
        ["a", "ends"],
        ["b", "lost"],
        ["c", "fails"]
      ] as const) {
        const order: Array<string> = []
        const note = (word: string) => Effect.sync(() => void order.push(`${word} ${released.includes(key)}`))
        const fiber = yield* Effect.fork(
          caller(
            Effect.exit(
              lock.withLock(key)(
                Effect.zipRight(
                  Effect.fork(Effect.onInterrupt(Effect.never, () => note("forked"))),
                  Effect.zipRight(
                    Effect.sleep("10 millis"),
                    how === "lost" ? Effect.never : how === "ends" ? Effect.void : Effect.fail("own")
                  )
                )
              )
            )
          )
        )
        yield* TestClock.adjust("20 millis")
        if (how === "lost") yield* lose(key)
        const result = yield* Fiber.join(fiber)
        assert.strictEqual(reasonOf(result), how === "lost" ? "Lost" : how === "ends" ? "success" : "other")
        assert.deepStrictEqual(order, ["forked false"])
      }
      assert.deepStrictEqual(released, ["a", "b", "c"])
    })
  )

  both("work that cannot be interrupted comes to its end, and does not succeed", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      let ended = false
      const fiber = yield* Effect.fork(
        caller(
          Effect.exit(
            lock.withLock("a")(
              Effect.uninterruptible(
                Effect.zipRight(
                  Effect.sleep("1 second"),
                  Effect.sync(() => {
                    ended = true
                  })
                )
              )
            )
          )
        )
      )
      yield* Effect.yieldNow()
      yield* lose("a")
      assert.isFalse(ended)
      assert.deepStrictEqual(released, [])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Lost")
      assert.isTrue(ended)
      assert.deepStrictEqual(released, ["a"])
    })
  )

  both("cannot be caught by the work itself", ({ caller, lock, lose }) =>
    Effect.gen(function* () {
      let caught = false
      const fiber = yield* Effect.fork(
        caller(
          Effect.exit(
            lock.withLock("a")(
              Effect.never.pipe(
                Effect.catchAllCause(() =>
                  Effect.sync(() => {
                    caught = true
                  })
                ),
                Effect.zipRight(Effect.never)
              )
            )
          )
        )
      )
      yield* Effect.yieldNow()
      yield* lose("a")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Lost")
      assert.isFalse(caught)
    })
  )

  both("a defect of a finalizer is not lost in it", ({ caller, lock, lose }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(
        caller(Effect.exit(lock.withLock("a")(Effect.ensuring(Effect.never, Effect.die("bug")))))
      )
      yield* Effect.yieldNow()
      yield* lose("a")
      const result = yield* Fiber.join(fiber)
      assert.isTrue(Exit.isFailure(result) && Option.isSome(Cause.dieOption(result.cause)))
    })
  )
})

describe("an interruption of the caller", () => {
  both("interrupts the work, waits for its finalizers, and is told apart from a loss", ({ caller, lock, released }) =>
    Effect.gen(function* () {
      let order = ""
      const fiber = yield* Effect.fork(
        caller(
          lock.withLock("a")(
            Effect.ensuring(
              Effect.never,
              Effect.zipRight(
                Effect.sleep("1 second"),
                Effect.sync(() => {
                  order += `finalizer, released: ${released.length}`
                })
              )
            )
          )
        )
      )
      yield* Effect.yieldNow()
      const me = yield* Effect.fiberId
      const interrupting = yield* Effect.fork(Fiber.interruptAs(fiber, me))
      yield* TestClock.adjust("1 second")
      const exit = yield* Fiber.join(interrupting)
      assert.strictEqual(reasonOf(exit), "interrupted")
      assert.isTrue(
        Exit.isFailure(exit) &&
          [...Cause.interruptors(exit.cause)].some((by) =>
            FiberId.toSet(by).pipe((ids) => [...ids].some((id) => id.id === [...FiberId.ids(me)][0]))
          )
      )
      assert.strictEqual(order, "finalizer, released: 0")
      assert.deepStrictEqual(released, ["a"])
    })
  )

  both("goes on after a loss that came first, and the lock is given back once", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      let after = false
      const fiber = yield* Effect.fork(
        caller(
          Effect.zipRight(
            Effect.ignore(lock.withLock("a")(Effect.ensuring(Effect.never, Effect.sleep("1 second")))),
            Effect.sync(() => {
              after = true
            })
          )
        )
      )
      yield* Effect.yieldNow()
      yield* lose("a")
      // the work is in its finalizer now
      const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(reasonOf(yield* Fiber.join(interrupting)), "interrupted")
      assert.isFalse(after)
      assert.deepStrictEqual(released, ["a"])
    })
  )

  both("a loss after it changes nothing", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(
        caller(Effect.either(lock.withLock("a")(Effect.ensuring(Effect.never, Effect.sleep("1 second")))))
      )
      yield* Effect.yieldNow()
      const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* Effect.yieldNow()
      yield* lose("a")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(reasonOf(yield* Fiber.join(interrupting)), "interrupted")
      assert.deepStrictEqual(released, ["a"])
    })
  )

  both("does not reach work in a region that cannot be interrupted; the loss does", ({ caller, lock, lose }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(caller(Effect.uninterruptible(Effect.exit(lock.withLock("a")(Effect.never)))))
      yield* Effect.yieldNow()
      const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* TestClock.adjust("1 second")
      assert.isNull(fiber.unsafePoll())
      yield* lose("a")
      yield* Fiber.join(interrupting)
      assert.isNotNull(fiber.unsafePoll())
    })
  )

  both("a finalizer of a caller that is interrupted can work under a lock", ({ caller, lock, released }) =>
    Effect.gen(function* () {
      let saved = false
      const fiber = yield* Effect.fork(
        caller(
          Effect.ensuring(
            Effect.never,
            Effect.orDie(
              lock.withLock("a")(
                Effect.zipRight(
                  Effect.sleep("1 second"),
                  Effect.sync(() => {
                    saved = true
                  })
                )
              )
            )
          )
        )
      )
      yield* Effect.yieldNow()
      const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(interrupting)
      assert.isTrue(saved)
      assert.deepStrictEqual(released, ["a"])
    })
  )

  both("timeouts around and inside of it are timeouts", ({ caller, lock, released }) =>
    Effect.gen(function* () {
      const around = yield* Effect.fork(caller(Effect.timeoutOption(lock.withLock("a")(Effect.never), "10 millis")))
      const inside = yield* Effect.fork(caller(lock.withLock("b")(Effect.timeoutOption(Effect.never, "10 millis"))))
      yield* TestClock.adjust("10 millis")
      assert.isTrue(Option.isNone(yield* Fiber.join(around)))
      assert.isTrue(Option.isNone(yield* Fiber.join(inside)))
      assert.sameMembers([...released], ["a", "b"])
    })
  )
})

/** A lock whose release takes a second, which loses what it has as soon as it is told to, in whoever's step that is. */
const slow = Effect.gen(function* () {
  const { backend, released } = store()
  const scope = yield* Scope.fork(yield* Effect.scope, ExecutionStrategy.sequential)
  const runtime = yield* Effect.runtime<never>()
  const delayed: Lock.Backend = {
    ...backend,
    release: (request) => Effect.zipRight(Effect.sleep("1 second"), backend.release(request))
  }
  const lock = yield* Scope.extend(Lock.make(delayed), scope)
  return {
    lock,
    released,
    lose: () => {
      Runtime.runFork(runtime, Scope.close(scope, Exit.void))
    }
  }
})

/** Whether a fiber of this id is among those who interrupted. */
const isBy = (exit: Exit.Exit<unknown, unknown>, id: FiberId.FiberId): boolean =>
  Exit.isFailure(exit) &&
  HashSet.some(Cause.interruptors(exit.cause), (by) =>
    HashSet.isSubset(FiberId.toSet(id) as HashSet.HashSet<FiberId.FiberId>, FiberId.toSet(by))
  )

describe("an interruption of the caller and a loss in one step", () => {
  const stranger = FiberId.make(987_654, 0)

  type Blow = (world: { readonly lose: () => void; readonly interrupt: () => void }) => void
  const blows: ReadonlyArray<readonly [string, Blow]> = [
    ["the loss first", ({ interrupt, lose }) => [lose(), interrupt()]],
    ["the interruption first", ({ interrupt, lose }) => [interrupt(), lose()]]
  ]

  for (const [who, caller] of callers) {
    for (const [order, strike] of blows) {
      for (const [where, during] of [
        ["while the work waits", "waits"],
        ["in a step of the work itself", "runs"],
        ["in a finalizer of the work", "finalizes"]
      ] as const) {
        it.scoped(`${where}, ${order}: the caller stays interrupted, by whom it was (${who})`, () =>
          Effect.gen(function* () {
            const { lock, lose, released } = yield* slow
            const seen: Array<string> = []
            const struck: { fiber?: Fiber.RuntimeFiber<unknown, unknown> } = {}
            const blow = Effect.sync(() =>
              strike({ lose, interrupt: () => struck.fiber?.unsafeInterruptAsFork(stranger) })
            )
            const work =
              during === "waits"
                ? Effect.never
                : during === "runs"
                  ? Effect.zipRight(Effect.sleep("10 millis"), Effect.zipRight(blow, Effect.succeed("done")))
                  : Effect.ensuring(Effect.sleep("10 millis"), Effect.zipRight(blow, Effect.sleep("10 millis")))
            const fiber = yield* Effect.fork(
              caller(
                Effect.onExit(Effect.exit(lock.withLock("a")(work)), () =>
                  Effect.map(FiberRef.get(FiberRef.interruptedCause), (cause) => {
                    const names = [...Cause.interruptors(cause)].flatMap((by) => [...FiberId.toSet(by)])
                    seen.push(...names.map((by) => FiberId.threadName(by)))
                  })
                ).pipe(
                  Effect.zipRight(
                    Effect.sync(() => {
                      seen.push("went on")
                    })
                  )
                )
              )
            )
            struck.fiber = fiber
            yield* TestClock.adjust("10 millis")
            if (during === "waits") yield* blow
            yield* TestClock.adjust("5 seconds")
            const exit = yield* Fiber.await(fiber)
            assert.isTrue(Exit.isFailure(exit) && Cause.isInterrupted(exit.cause))
            assert.isTrue(isBy(exit, stranger))
            // nothing of the lock's own interruption is left in it
            assert.deepStrictEqual(seen, [FiberId.threadName(stranger)])
            assert.deepStrictEqual(released, ["a"])
          })
        )
      }
    }

    for (const [order, strike] of blows) {
      it.scoped(`${order}: who looks at the caller finds an interruption and no failure (${who})`, () =>
        Effect.gen(function* () {
          const { lock, lose } = yield* slow
          const fiber = yield* Effect.fork(caller(lock.withLock("a")(Effect.never)))
          yield* TestClock.adjust("10 millis")
          strike({ lose, interrupt: () => fiber.unsafeInterruptAsFork(stranger) })
          yield* TestClock.adjust("5 seconds")
          assert.strictEqual(reasonOf(yield* Fiber.await(fiber)), "interrupted")
        })
      )
    }

    for (const [how, body, isLosing] of [
      ["after a loss", Effect.never, true],
      ["after a success", Effect.sleep("10 millis"), false]
    ] as const) {
      it.scoped(`while the lock is given back ${how}: the caller is interrupted as soon as it is (${who})`, () =>
        Effect.gen(function* () {
          const { lock, lose, released } = yield* slow
          let wentOn = false
          const fiber = yield* Effect.fork(
            caller(
              Effect.zipRight(
                Effect.exit(lock.withLock("a")(body)),
                Effect.sync(() => {
                  wentOn = true
                })
              )
            )
          )
          yield* TestClock.adjust("10 millis")
          if (isLosing) lose()
          yield* TestClock.adjust("500 millis")
          assert.deepStrictEqual(released, [])
          fiber.unsafeInterruptAsFork(stranger)
          yield* TestClock.adjust("200 millis")
          assert.isNull(fiber.unsafePoll())
          yield* TestClock.adjust("1 second")
          assert.isTrue(isBy(yield* Fiber.await(fiber), stranger))
          assert.isFalse(wentOn)
          assert.deepStrictEqual(released, ["a"])
        })
      )
    }
  }
})

describe("the fibers of the caller", () => {
  it.scoped("one that was forked in the step before, or ended in it, is known", () =>
    Effect.gen(function* () {
      const { backend, steal } = store()
      const lock = yield* Lock.make(backend)
      let wasInterrupted = false
      const mine = Effect.onInterrupt(Effect.never, () =>
        Effect.sync(() => {
          wasInterrupted = true
        })
      )
      for (const before of [
        Effect.fork(mine),
        // one that ends at once beside one that stays
        Effect.zipRight(Effect.fork(Effect.void), Effect.fork(mine)),
        Effect.zipLeft(Effect.fork(mine), Effect.flatMap(Effect.fork(Effect.yieldNow()), Fiber.join))
      ]) {
        wasInterrupted = false
        const fiber = yield* Effect.fork(
          Effect.zipRight(before, Effect.zipRight(Effect.exit(lock.withLock("a")(Effect.never)), Effect.never))
        )
        yield* Effect.yieldNow()
        steal("a")
        yield* TestClock.adjust("60 millis")
        assert.isFalse(wasInterrupted)
        yield* Fiber.interrupt(fiber)
        assert.isTrue(wasInterrupted)
      }
    })
  )

  it.scoped("what the work forked as its very last step ends before the caller goes on", () =>
    Effect.gen(function* () {
      const { backend, released } = store()
      const lock = yield* Lock.make(backend)
      const caller = yield* Effect.fork(
        Effect.map(lock.withLock("a")(Effect.fork(Effect.never)), (forked) => forked.unsafePoll())
      )
      const exit = yield* Fiber.join(caller)
      assert.isTrue(exit !== null && Exit.isInterrupted(exit))
      assert.deepStrictEqual(released, ["a"])
    })
  )
})

describe("locks within locks", () => {
  const nested = (lock: Lock.Service) =>
    Effect.exit(
      lock.withLock("outer")(
        Effect.flatMap(Lock.FencingToken, (before) =>
          Effect.flatMap(Effect.exit(lock.withLock("inner")(Effect.never)), (inner) =>
            Effect.map(Lock.FencingToken, (after) => ({ inner: reasonOf(inner), same: before === after }))
          )
        )
      )
    )

  both("the loss of the outer one ends both, and both are given back", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(caller(nested(lock)))
      yield* Effect.yieldNow()
      yield* lose("outer")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Lost")
      assert.deepStrictEqual(released, ["inner", "outer"])
    })
  )

  both("the loss of the inner one is a failure for the outer one to handle", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(caller(nested(lock)))
      yield* Effect.yieldNow()
      yield* lose("inner")
      const exit = yield* Fiber.join(fiber)
      assert.deepStrictEqual(Exit.isSuccess(exit) && exit.value, { inner: "Lost", same: true })
      assert.deepStrictEqual(released, ["inner", "outer"])
    })
  )

  both("both are lost at once", ({ caller, lock, lose, released }) =>
    Effect.gen(function* () {
      const fiber = yield* Effect.fork(caller(Effect.zipRight(Effect.sleep(1), nested(lock))))
      yield* TestClock.adjust(1)
      yield* Effect.zipRight(lose("inner"), lose("outer"))
      assert.strictEqual(yield* Effect.map(Fiber.join(fiber), reasonOf), "success")
      const again = yield* Effect.fork(caller(nested(lock)))
      // both are gone already: one look finds both
      yield* TestClock.adjust("60 millis")
      assert.strictEqual(reasonOf(yield* Fiber.join(again)), "Lost")
      assert.deepStrictEqual(released, ["inner", "outer", "inner", "outer"])
    })
  )
})

describe("whatever happens in whatever order", () => {
  const millis = fc.integer({ min: 0, max: 120 })
  const plan = fc.record({
    work: millis,
    uninterruptible: fc.boolean(),
    region: fc.boolean(),
    forks: fc.boolean(),
    fails: fc.boolean(),
    finalizer: fc.integer({ min: 0, max: 30 }),
    loss: fc.option(millis, { nil: undefined }),
    interruption: fc.option(millis, { nil: undefined })
  })

  it.scoped("the lock is given back once, after all of its work, and a caller alone fares as one with a fiber", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(plan, async (one) => {
          const run = (caller: World["caller"]) =>
            Effect.gen(function* () {
              const { backend, released, steal } = store()
              let active = 0
              let atRelease: number | undefined
              const watched: Lock.Backend = {
                ...backend,
                release: (request) => {
                  atRelease = active
                  return backend.release(request)
                }
              }
              const guarded = yield* Lock.make(watched)
              const busy = <A, E>(effect: Effect.Effect<A, E>) =>
                Effect.acquireUseRelease(
                  Effect.sync(() => void active++),
                  () => effect,
                  () =>
                    Effect.zipRight(
                      Effect.sleep(one.finalizer),
                      Effect.sync(() => void active--)
                    )
                )
              const work = busy(
                Effect.zipRight(Effect.sleep(one.work), one.fails ? Effect.fail("own") : Effect.succeed("done"))
              )
              const body = Effect.zipRight(
                one.forks ? Effect.fork(busy(Effect.never)) : Effect.void,
                one.uninterruptible ? Effect.uninterruptible(work) : work
              )
              const whole = Effect.exit(guarded.withLock("a")(body))
              let result: string | undefined
              const fiber = yield* Effect.fork(
                caller(
                  Effect.zipRight(
                    Effect.map(one.region ? Effect.uninterruptible(whole) : whole, (exit) => {
                      result = reasonOf(exit)
                    }),
                    Effect.yieldNow()
                  )
                )
              )
              if (one.loss !== undefined) {
                const at = one.loss
                yield* Effect.fork(
                  Effect.zipRight(
                    Effect.sleep(at),
                    Effect.sync(() => steal("a"))
                  )
                )
              }
              if (one.interruption !== undefined) {
                yield* Effect.fork(Effect.zipRight(Effect.sleep(one.interruption), Fiber.interrupt(fiber)))
              }
              yield* TestClock.adjust("250 millis")
              assert.strictEqual(active, 0)
              assert.strictEqual(atRelease, 0)
              assert.deepStrictEqual(released, ["a"])
              const exit = yield* Fiber.await(fiber)
              return { result, exit: reasonOf(exit) }
            }).pipe(Effect.scoped)
          const [alone, accompanied] = await Promise.all(
            callers.map(([, caller]) => Effect.runPromise(Effect.provide(run(caller), TestContext.TestContext)))
          )
          assert.deepStrictEqual(alone, accompanied)
        }),
        { numRuns: 30 }
      )
    )
  )
})
