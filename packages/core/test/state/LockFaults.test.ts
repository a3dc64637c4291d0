/** What locks do when their store fails, is slow or forgets, by a store that does as it is told and a clock that is ours. */
import { assert, describe, it } from "@effect/vitest"
import { Lock } from "@underlay/core"
import { LockSuite, Suite } from "@underlay/core/testing"
import { Clock, Deferred, type Duration, Effect, Either, Exit, Fiber, FiberRef, Scope, TestClock } from "effect"

const unavailable = new Lock.LockError({
  reason: "Unavailable",
  method: "test",
  description: "away",
  outcome: "not-done"
})

/** A store that grants whatever it is asked for, and what it was asked. */
const scripted = (overrides: Partial<Lock.Backend> = {}) => {
  const asked: Array<string> = []
  let token = 0n
  const note = <A>(name: string, value: () => A) =>
    Effect.sync(() => {
      asked.push(name)
      return value()
    })
  const backend: Lock.Backend = {
    acquire: () => note("acquire", (): Lock.Attempt => ({ _tag: "Granted", token: ++token })),
    renew: (requests) => note("renew", () => requests.map(() => Either.right(true))),
    check: (requests) => note("check", () => requests.map(() => Either.right(true))),
    release: () => note("release", () => true),
    abandon: () => note("abandon", () => undefined),
    ...overrides
  }
  return { asked, backend }
}

const lostFiber = (lock: Lock.Service, options: Lock.LockOptions) =>
  Effect.gen(function* () {
    const started = yield* Deferred.make<Lock.Lease>()
    const fiber = yield* Effect.fork(
      Effect.either(
        lock.withLock(
          "a",
          options
        )(Effect.flatMap(Lock.FencingToken, (lease) => Effect.zipRight(Deferred.succeed(started, lease), Effect.never)))
      )
    )
    return { fiber, lease: yield* Deferred.await(started) }
  })

const isLost = (exit: Exit.Exit<Either.Either<unknown, Lock.LockError>> | null): boolean =>
  exit !== null && Exit.isSuccess(exit) && Either.isLeft(exit.value) && exit.value.left.reason === "Lost"

describe("Lock over a store that fails", () => {
  it.scoped("without a renewal it is lost at its time to live, less 1 % and 2 ms, and not before", () =>
    Effect.gen(function* () {
      const { backend } = scripted({ renew: (all) => Effect.succeed(all.map(() => Either.left(unavailable))) })
      const lock = yield* Lock.make(backend)
      const { fiber, lease } = yield* lostFiber(lock, { ttl: "10 seconds" })
      yield* TestClock.adjust("9897 millis")
      assert.isTrue(yield* lease.isHeld)
      assert.isNull(fiber.unsafePoll())
      yield* TestClock.adjust("1 millis")
      assert.isFalse(yield* lease.isHeld)
      assert.isTrue(isLost(yield* Fiber.await(fiber)))
    })
  )

  it.scoped("its time is reckoned from before it was asked for, not from the answer", () =>
    Effect.gen(function* () {
      const slow = scripted()
      const { backend } = scripted({
        acquire: (request, patience) => Effect.delay(slow.backend.acquire(request, patience), "3 seconds"),
        renew: (all) => Effect.succeed(all.map(() => Either.left(unavailable)))
      })
      const lock = yield* Lock.make(backend)
      const acquiring = yield* Effect.fork(lock.acquire("a", { ttl: "10 seconds" }))
      yield* TestClock.adjust("3 seconds")
      const lease = yield* Fiber.join(acquiring)
      yield* TestClock.adjust("6897 millis")
      assert.isTrue(yield* lease.isHeld)
      yield* TestClock.adjust("1 millis")
      assert.isFalse(yield* lease.isHeld)
    })
  )

  it.scoped("a grant that took as long as the lock lives is given back, and not had", () =>
    Effect.gen(function* () {
      const slow = scripted()
      const { asked, backend } = scripted({
        acquire: (request, patience) => Effect.delay(slow.backend.acquire(request, patience), "10 seconds")
      })
      const lock = yield* Lock.make(backend)
      const fiber = yield* Effect.fork(Effect.either(lock.withLock("a", { wait: 0 })(Effect.succeed(1))))
      yield* TestClock.adjust("10 seconds")
      const result = yield* Fiber.join(fiber)
      assert.isTrue(Either.isLeft(result) && result.left.reason === "NotAcquired")
      assert.deepStrictEqual(asked, ["abandon"])
    })
  )

  it.scoped("is renewed each third of its time, looked after in between, and not at all after its end", () =>
    Effect.gen(function* () {
      const { asked, backend } = scripted()
      const lock = yield* Lock.make(backend, { watch: "1 second" })
      const lease = yield* lock.acquire("a", { ttl: "9 seconds" })
      yield* TestClock.adjust("9 seconds")
      assert.strictEqual(asked.filter((one) => one === "renew").length, 3)
      assert.isAtLeast(asked.filter((one) => one === "check").length, 5)
      yield* lease.release
      const before = asked.length
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(asked.length, before)
    })
  )

  it.scoped("renewals that fail are tried again: one that gets through in time is enough", () =>
    Effect.gen(function* () {
      let fails = true
      let tries = 0
      const { backend } = scripted({
        renew: (all) =>
          Effect.sync(() => {
            tries++
            return all.map(() => (fails ? Either.left(unavailable) : Either.right(true)))
          })
      })
      const lock = yield* Lock.make(backend)
      const lease = yield* lock.acquire("a", { ttl: "10 seconds" })
      yield* TestClock.adjust("9800 millis")
      assert.isAbove(tries, 10)
      fails = false
      yield* TestClock.adjust("300 millis")
      assert.isTrue(yield* lease.isHeld)
      yield* TestClock.adjust("30 seconds")
      assert.isTrue(yield* lease.isHeld)
    })
  )

  it.scoped("an interruption while the store is asked: the work does not begin, and the lock is given back", () =>
    Effect.gen(function* () {
      const slow = scripted()
      const { asked, backend } = scripted({
        acquire: (request, patience) => Effect.delay(slow.backend.acquire(request, patience), "100 millis")
      })
      const lock = yield* Lock.make(backend)
      let ran = false
      const fiber = yield* Effect.fork(
        lock.withLock("a")(
          Effect.sync(() => {
            ran = true
          })
        )
      )
      yield* TestClock.adjust("50 millis")
      const interrupting = yield* Effect.fork(Fiber.interrupt(fiber))
      yield* TestClock.adjust("50 millis")
      assert.isTrue(Exit.isInterrupted(yield* Fiber.join(interrupting)))
      assert.isFalse(ran)
      assert.strictEqual(asked.at(-1), "release")
    })
  )

  it.scoped("the loss interrupts work in a region of the caller that cannot be interrupted", () =>
    Effect.gen(function* () {
      const { backend } = scripted({ check: (all) => Effect.succeed(all.map(() => Either.right(false))) })
      const lock = yield* Lock.make(backend)
      const fiber = yield* Effect.fork(Effect.uninterruptible(Effect.either(lock.withLock("a")(Effect.never))))
      yield* TestClock.adjust("50 millis")
      assert.isTrue(isLost(yield* Fiber.await(fiber)))
    })
  )

  it.scoped("what the work sets in fiber references is its caller's, and the token is not", () =>
    Effect.gen(function* () {
      const reference = FiberRef.unsafeMake("before")
      const lock = yield* Lock.make(scripted().backend)
      yield* lock.withLock("a")(FiberRef.set(reference, "set at once"))
      assert.strictEqual(yield* FiberRef.get(reference), "set at once")
      yield* lock.withLock("a")(Effect.zipRight(Effect.yieldNow(), FiberRef.set(reference, "set later")))
      assert.strictEqual(yield* FiberRef.get(reference), "set later")
      assert.isTrue((yield* Effect.serviceOption(Lock.FencingToken))._tag === "None")
    })
  )

  it.scoped("a release that fails does not fail the work, and is tried again", () =>
    Effect.gen(function* () {
      let away = true
      let abandoned = 0
      const { backend } = scripted({
        release: () => Effect.fail(unavailable),
        abandon: () =>
          Effect.suspend(() => {
            if (away) return Effect.fail(unavailable)
            abandoned++
            return Effect.void
          })
      })
      const lock = yield* Lock.make(backend)
      assert.strictEqual(yield* lock.withLock("a")(Effect.succeed(1)), 1)
      yield* TestClock.adjust("1 second")
      away = false
      yield* TestClock.adjust("5 seconds")
      assert.isAtLeast(abandoned, 1)
      const before = abandoned
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(abandoned, before)
    })
  )

  it.scoped("the wall clock may be set back or forth: what is held is neither lost by it nor held for longer", () =>
    Effect.gen(function* () {
      const clock = yield* Effect.clock
      let ahead = 0
      const wall = () => clock.unsafeCurrentTimeMillis() + ahead
      const jumping: Clock.Clock = {
        [Clock.ClockTypeId]: Clock.ClockTypeId,
        currentTimeMillis: Effect.sync(wall),
        unsafeCurrentTimeMillis: wall,
        currentTimeNanos: clock.currentTimeNanos,
        unsafeCurrentTimeNanos: () => clock.unsafeCurrentTimeNanos(),
        sleep: (duration) => clock.sleep(duration)
      }
      let away = false
      const { backend } = scripted({
        renew: (all) => Effect.sync(() => all.map(() => (away ? Either.left(unavailable) : Either.right(true))))
      })
      const lock = yield* Effect.withClock(Lock.make(backend), jumping)
      const lease = yield* Effect.withClock(lock.acquire("a", { ttl: "10 seconds" }), jumping)
      for (const jump of [3_600_000, -3_600_000]) {
        ahead = jump
        yield* TestClock.adjust("4 seconds")
        assert.isTrue(yield* lease.isHeld)
      }
      away = true
      yield* TestClock.adjust("10 seconds")
      assert.isFalse(yield* lease.isHeld)
    })
  )

  it.scoped("a clock that goes back although none should: nobody believes in a lock that may be over", () =>
    Effect.gen(function* () {
      const { backend } = scripted()
      yield* TestClock.setTime(10_000)
      const lock = yield* Lock.make(backend)
      const lease = yield* lock.acquire("a", { ttl: "10 seconds" })
      assert.isTrue(yield* lease.isHeld)
      yield* TestClock.setTime(0)
      assert.isFalse(yield* lease.isHeld)
      assert.isFalse(yield* lease.release)
    })
  )

  it.scoped("when the service is released, what is held is lost", () =>
    Effect.gen(function* () {
      const scope = yield* Scope.make()
      const lock = yield* Scope.extend(Lock.make(scripted().backend), scope)
      const { fiber, lease } = yield* lostFiber(lock, {})
      yield* Scope.close(scope, Exit.void)
      assert.isTrue(isLost(yield* Fiber.await(fiber)))
      assert.isFalse(yield* lease.isHeld)
    })
  )
})

describe("Lock.makeFence", () => {
  it.scoped("refuses who comes after a later one", () =>
    Effect.gen(function* () {
      const lock = yield* Lock.make(scripted().backend)
      const [early, late] = [yield* lock.acquire("a"), yield* lock.acquire("a")]
      const fence = yield* Lock.makeFence
      const write = (lease: Lock.Lease) => Effect.provideService(fence(Effect.succeed(1)), Lock.FencingToken, lease)
      assert.strictEqual(yield* write(early), 1)
      assert.strictEqual(yield* write(late), 1)
      assert.strictEqual(yield* write(late), 1)
      const refused = yield* Effect.either(write(early))
      assert.isTrue(Either.isLeft(refused) && refused.left.reason === "Stale")
    })
  )
})

describe("LockSuite", () => {
  it.scoped("fails on locks that break the rules, and says which", () =>
    Effect.gen(function* () {
      const run = Suite.run(
        LockSuite.make({ advance: (duration: Duration.Duration) => TestClock.adjust(duration) }),
        []
      )
      // a store that grants everything to everybody
      const careless = yield* Effect.provideServiceEffect(run, Lock.Lock, Lock.make(scripted().backend))
      const failed = careless.filter((result) => result.outcome === "failed").map((result) => result.name)
      assert.include(failed, "one holds it, another does not get it")
      assert.include(failed, "at most one at a time, and no increment is lost")
      assert.include(failed, "readers share, a writer excludes and is excluded")
      assert.include(failed, "so many permits and no more")
      assert.include(failed, "who asks fairly has it in the order of asking, before those who do not")
      assert.notInclude(failed, "runs an effect and gives its result")
      assert.isTrue(careless.some((result) => result.outcome === "not-applicable"))
    })
  )
})
