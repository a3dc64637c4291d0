/**
 * What every lock must do.
 *
 * @since 0.1.0
 */
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Lock from "../state/Lock.ts"
import * as Suite from "./Suite.ts"

/**
 * What an adapter may have beyond the port: `steal`, that a lock can be taken away behind its holder's back.
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "steal"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /** Lets time pass, for the store and for its clients: by `TestClock`, or by waiting. Never more than a second or two. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  /** Removes a lock as somebody else's `DEL` or a fail-over would: the capability `steal`. */
  readonly steal?: ((key: string) => Effect.Effect<void, unknown, R>) | undefined
  /**
   * How many times longer locks live, and everything may take, than with a clock that only goes when it is told to: then
   * short locks live for 200 milliseconds, and a loss is told within 100. By a real clock so long that a machine with much
   * else to do keeps its times; 5 is enough nearly everywhere. Default: 1.
   */
  readonly pace?: number | undefined
}

/**
 * The suite. Every case takes keys of its own, so all of them can run on one service.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<Capability, Lock.Lock | R> => {
  const { advance, pace = 1 } = options
  const steal = options.steal ?? (() => Effect.dieMessage("the capability `steal` needs the option `steal`"))

  const scenario = (
    name: string,
    run: (lock: Lock.Service, key: string) => Effect.Effect<void, unknown, R | Scope.Scope>,
    requires: ReadonlyArray<Capability> = []
  ) => Suite.testWith(name, requires, Effect.scoped(Effect.flatMap(Lock.Lock, (lock) => run(lock, `suite ${keys++}`))))

  const failsWith = <A, E, R2>(reason: Lock.Reason, effect: Effect.Effect<A, E, R2>) =>
    Suite.fails(reason, effect, (error) => error instanceof Lock.LockError && error.reason === reason)

  /** A time that is long enough for others to have done something. */
  const paced = (millis: number) => Duration.millis(millis * pace)

  /** Lets time pass in small steps until the condition holds, which it must within `within` milliseconds and the pace. */
  const soon = <E, R2>(expectation: string, condition: Effect.Effect<boolean, E, R2>, within = 2_000) =>
    Effect.gen(function* () {
      for (let waited = 0; waited <= within * pace; waited += 10) {
        if (yield* condition) return
        yield* advance(Duration.millis(10))
      }
      yield* Suite.isTrue(expectation, false)
    })

  const isDone = <A, E>(fiber: Fiber.RuntimeFiber<A, E>): Effect.Effect<boolean> =>
    Effect.sync(() => fiber.unsafePoll() !== null)

  /** Its result, which must come within `within` milliseconds and the pace. */
  const outcome = <A, E>(fiber: Fiber.RuntimeFiber<A, E>, within?: number) =>
    Effect.zipRight(soon("it comes to its end", isDone(fiber), within), Fiber.await(fiber))

  const quick = { ttl: paced(200), wait: paced(1_500) } as const

  return Suite.make<Capability, Lock.Lock | R>("Lock", [
    scenario("runs an effect and gives its result", (lock, key) =>
      Effect.gen(function* () {
        yield* Suite.equal("the value", yield* lock.withLock(key)(Effect.succeed(42)), 42)
        yield* Suite.equal(
          "the failure",
          yield* Effect.either(lock.withLock(key)(Effect.fail("no"))),
          Either.left<string | Lock.LockError>("no")
        )
        const exit = yield* Effect.exit(lock.withLock(key)(Effect.die("bug")))
        yield* Suite.isTrue("a defect stays one", Exit.isFailure(exit) && exit.cause._tag === "Die")
        yield* Suite.equal("free again", yield* lock.withLock(key, { wait: 0 })(Effect.succeed(1)), 1)
      })
    ),
    scenario("one holds it, another does not get it", (lock, key) =>
      Effect.gen(function* () {
        const lease = yield* lock.acquire(key)
        yield* failsWith("NotAcquired", lock.withLock(key, { wait: 0 })(Effect.void))
        yield* Suite.equal("another key", yield* lock.withLock(`${key}'`, { wait: 0 })(Effect.succeed(1)), 1)
        yield* Suite.equal("held", yield* lease.isHeld, true)
        yield* Suite.equal("released", yield* lease.release, true)
        yield* Suite.equal("held after release", yield* lease.isHeld, false)
        yield* lock.withLock(key, { wait: 0 })(Effect.void)
      })
    ),
    scenario("release can be repeated and frees nobody else's lock", (lock, key) =>
      Effect.gen(function* () {
        const first = yield* lock.acquire(key)
        yield* first.release
        const second = yield* lock.acquire(key, { wait: 0 })
        yield* Suite.equal("the second release of the first", yield* first.release, false)
        yield* Suite.equal("the second is held", yield* second.isHeld, true)
        yield* failsWith("NotAcquired", lock.acquire(key, { wait: 0 }))
      })
    ),
    scenario("the scope frees the lock", (lock, key) =>
      Effect.gen(function* () {
        yield* Effect.scoped(lock.acquire(key))
        yield* Effect.scoped(lock.acquire(key, { wait: 0 }))
        yield* Effect.scoped(lock.acquireRead(key, { wait: 0 }))
        yield* Effect.scoped(lock.acquire(key, { wait: 0 }))
      })
    ),
    scenario("fencing tokens grow with every holder of whatever kind", (lock, key) =>
      Effect.gen(function* () {
        let last = 0n
        for (let round = 0; round < 5; round++) {
          for (const guard of [lock.withLock(key), lock.withReadLock(key), lock.withWriteLock(key, { fair: true })]) {
            const { key: of, token } = yield* guard(Lock.FencingToken)
            yield* Suite.equal("the key", of, key)
            yield* Suite.isTrue("the token is greater", token > last)
            last = token
          }
        }
        last = 0n
        for (let round = 0; round < 5; round++) {
          const { token } = yield* lock.withPermit(key, { permits: 2 })(Lock.FencingToken)
          yield* Suite.isTrue("the token of a permit is greater", token > last)
          last = token
        }
      })
    ),
    scenario("waits until the lock is free, and is woken", (lock, key) =>
      Effect.gen(function* () {
        const lease = yield* lock.acquire(key)
        const waiter = yield* Effect.fork(lock.withLock(key)(Effect.succeed("in")))
        yield* advance(Duration.millis(100))
        yield* Suite.equal("waits", yield* isDone(waiter), false)
        yield* lease.release
        yield* Suite.equal("in", yield* outcome(waiter, 300), Exit.succeed("in"))
      })
    ),
    scenario("waits no longer than it is told, and leaves nothing", (lock, key) =>
      Effect.gen(function* () {
        for (const fair of [false, true]) {
          const lease = yield* lock.acquire(key, { wait: 0 })
          const waiter = yield* Effect.fork(
            failsWith("NotAcquired", lock.withLock(key, { wait: "150 millis", fair })(Effect.void))
          )
          yield* Suite.isTrue("it gives up", Exit.isSuccess(yield* outcome(waiter, 600)))
          yield* lease.release
          yield* Effect.scoped(lock.acquire(key, { wait: 0 }))
          yield* Effect.scoped(lock.acquireRead(key, { wait: 0 }))
        }
      })
    ),
    scenario("an interrupted waiter leaves nothing", (lock, key) =>
      Effect.gen(function* () {
        for (const fair of [false, true]) {
          const lease = yield* lock.acquire(key, { wait: 0 })
          const waiter = yield* Effect.fork(lock.withLock(key, { wait: "forever", fair })(Effect.void))
          yield* advance(Duration.millis(50))
          yield* Fiber.interrupt(waiter)
          yield* lease.release
          yield* Effect.scoped(lock.acquire(key, { wait: 0 }))
          yield* Effect.scoped(lock.acquireRead(key, { wait: 0 }))
        }
      })
    ),
    scenario("work that is interrupted frees the lock after its finalizers", (lock, key) =>
      Effect.gen(function* () {
        const started = yield* Deferred.make<void>()
        let inFinalizer: unknown
        const worker = yield* Effect.fork(
          lock.withLock(key)(
            Effect.ensuring(
              Effect.zipRight(Deferred.succeed(started, undefined), Effect.never),
              Effect.map(Effect.either(lock.withLock(key, { wait: 0 })(Effect.void)), (result) => {
                inFinalizer = Either.isLeft(result) ? result.left.reason : "free"
              })
            )
          )
        )
        yield* Effect.raceFirst(Deferred.await(started), Fiber.join(worker))
        yield* Fiber.interrupt(worker)
        yield* Suite.equal("it was still held in the finalizer", inFinalizer, "NotAcquired")
        yield* lock.withLock(key, { wait: 0 })(Effect.void)
      })
    ),
    scenario("is renewed for as long as it is held", (lock, key) =>
      Effect.gen(function* () {
        const lease = yield* lock.acquire(key, quick)
        const reader = yield* lock.acquireRead(`${key} r`, quick)
        const permit = yield* lock.acquirePermit(key, { ...quick, permits: 1 })
        for (let step = 0; step < 10; step++) {
          yield* advance(paced(50))
          yield* failsWith("NotAcquired", lock.acquire(key, { wait: 0 }))
          yield* failsWith("NotAcquired", lock.acquire(`${key} r`, { wait: 0 }))
          yield* failsWith("NotAcquired", lock.acquirePermit(key, { permits: 1, wait: 0 }))
        }
        yield* Suite.equal("held", yield* lease.isHeld, true)
        yield* Suite.equal("the lock was held to the end", yield* lease.release, true)
        yield* Suite.equal("the reader's too", yield* reader.release, true)
        yield* Suite.equal("the permit too", yield* permit.release, true)
      })
    ),
    scenario("at most one at a time, and no increment is lost", (lock, key) =>
      Effect.gen(function* () {
        let count = 0
        let inside = 0
        let most = 0
        const increment = Effect.gen(function* () {
          most = Math.max(most, ++inside)
          const seen = count
          yield* Effect.yieldNow()
          yield* Effect.yieldNow()
          count = seen + 1
          inside--
        })
        const all = yield* Effect.fork(
          Effect.forEach(
            Array.from({ length: 20 }),
            (_, index) => lock.withLock(key, { wait: "forever", fair: index % 2 === 0 })(increment),
            { concurrency: "unbounded", discard: true }
          )
        )
        yield* Suite.isTrue("all succeed", Exit.isSuccess(yield* outcome(all, 10_000)))
        yield* Suite.equal("the count", count, 20)
        yield* Suite.equal("at once", most, 1)
      })
    ),
    scenario("readers share, a writer excludes and is excluded", (lock, key) =>
      Effect.gen(function* () {
        const one = yield* lock.acquireRead(key, { wait: 0 })
        const two = yield* lock.acquireRead(key, { wait: 0 })
        yield* failsWith("NotAcquired", lock.withWriteLock(key, { wait: 0 })(Effect.void))
        yield* failsWith("NotAcquired", lock.withLock(key, { wait: 0 })(Effect.void))
        yield* one.release
        yield* failsWith("NotAcquired", lock.withWriteLock(key, { wait: 0 })(Effect.void))
        yield* two.release
        yield* lock.withWriteLock(key, { wait: 0 })(
          Effect.gen(function* () {
            yield* failsWith("NotAcquired", lock.withReadLock(key, { wait: 0 })(Effect.void))
            yield* failsWith("NotAcquired", lock.withReadLock(key, { wait: 0, fair: true })(Effect.void))
          })
        )
        yield* lock.withReadLock(key, { wait: 0 })(Effect.void)
      })
    ),
    scenario("a writer is not starved by readers", (lock, key) =>
      Effect.gen(function* () {
        for (const fair of [false, true]) {
          const reader = yield* lock.acquireRead(key, { wait: 0 })
          const writer = yield* Effect.fork(lock.withWriteLock(key, { fair })(Effect.succeed("written")))
          // it must have been refused once to be waiting
          yield* soon(
            "new readers are kept out",
            Effect.map(Effect.either(Effect.scoped(lock.acquireRead(key, { wait: 0 }))), Either.isLeft)
          )
          yield* reader.release
          yield* Suite.equal("the writer", yield* outcome(writer), Exit.succeed("written"))
          yield* Effect.scoped(lock.acquireRead(key, { wait: 0 }))
        }
      })
    ),
    scenario("readers that wait get in together", (lock, key) =>
      Effect.gen(function* () {
        for (const fair of [false, true]) {
          const writer = yield* lock.acquire(key)
          let inside = 0
          const all = yield* Deferred.make<void>()
          const readers = yield* Effect.fork(
            Effect.forEach(
              [1, 2, 3, 4],
              () =>
                lock.withReadLock(key, { fair })(
                  Effect.suspend(() =>
                    ++inside === 4 ? Effect.asVoid(Deferred.succeed(all, undefined)) : Deferred.await(all)
                  )
                ),
              { concurrency: "unbounded", discard: true }
            )
          )
          yield* advance(Duration.millis(50))
          yield* writer.release
          yield* Suite.isTrue("all four at once", Exit.isSuccess(yield* outcome(readers)))
        }
      })
    ),
    scenario("so many permits and no more", (lock, key) =>
      Effect.gen(function* () {
        const permits = 3
        const held = yield* Effect.forEach([1, 2, 3], () => lock.acquirePermit(key, { permits, wait: 0 }))
        yield* failsWith("NotAcquired", lock.acquirePermit(key, { permits, wait: 0 }))
        yield* Effect.scoped(lock.acquire(key, { wait: 0 }))
        yield* Effect.forEach(held.slice(0, 1), (lease) => lease.release)
        yield* lock.withPermit(key, { permits, wait: 0 })(
          failsWith("NotAcquired", lock.acquirePermit(key, { permits, wait: 0, fair: true }))
        )
      })
    ),
    scenario("many want few permits: never too many at once, and all get one", (lock, key) =>
      Effect.gen(function* () {
        let inside = 0
        let most = 0
        let done = 0
        const all = yield* Effect.fork(
          Effect.forEach(
            Array.from({ length: 12 }),
            (_, index) =>
              lock.withPermit(key, { permits: 3, wait: "forever", fair: index % 3 === 0 })(
                Effect.gen(function* () {
                  most = Math.max(most, ++inside)
                  yield* Effect.yieldNow()
                  yield* Effect.yieldNow()
                  inside--
                  done++
                })
              ),
            { concurrency: "unbounded", discard: true }
          )
        )
        yield* Suite.isTrue("all succeed", Exit.isSuccess(yield* outcome(all, 10_000)))
        yield* Suite.equal("done", done, 12)
        yield* Suite.isTrue("at most three at once, and more than one", most <= 3 && most > 1)
      })
    ),
    scenario("who asks fairly has it in the order of asking, before those who do not", (lock, key) =>
      Effect.gen(function* () {
        const lease = yield* lock.acquire(key, { wait: 0 })
        const order: Array<number> = []
        const waiters: Array<Fiber.RuntimeFiber<void, Lock.LockError>> = []
        const ask = (name: number, fair: boolean) =>
          Effect.gen(function* () {
            const options = { wait: "forever", fair } as const
            const note = Effect.sync(() => void order.push(name))
            waiters.push(yield* Effect.fork(lock.withLock(key, options)(note)))
            yield* advance(paced(60))
          })
        yield* ask(4, false)
        for (const name of [1, 2, 3]) yield* ask(name, true)
        yield* lease.release
        for (const waiter of waiters) yield* outcome(waiter, 5_000)
        yield* Suite.equal("the order", order, [1, 2, 3, 4])
      })
    ),
    scenario("nobody goes before those who ask fairly", (lock, key) =>
      Effect.gen(function* () {
        const asks = [
          {
            hold: lock.acquireRead(key, { wait: 0 }),
            ask: (options: Lock.LockOptions) => lock.acquire(key, options),
            // a reader gets in beside the one that reads, unless somebody is before it
            beside: lock.acquireRead(key, { wait: 0 })
          },
          {
            hold: lock.acquirePermit(key, { permits: 2, wait: 0 }),
            ask: (options: Lock.LockOptions) => lock.acquirePermit(key, { ...options, permits: 2 }),
            beside: lock.acquirePermit(key, { permits: 3, wait: 0 })
          }
        ]
        // one permit is held throughout, so that it is about the other
        yield* lock.acquirePermit(key, { permits: 2, wait: 0 })
        for (const { ask, beside, hold } of asks) {
          for (let round = 0; round < 5; round++) {
            const lease = yield* hold
            let isIn = false
            const enter = Effect.sync(() => {
              isIn = true
            })
            const waiter = yield* Effect.fork(
              Effect.scoped(Effect.zipRight(ask({ fair: true, wait: "forever" }), Effect.zipRight(enter, Effect.never)))
            )
            yield* soon("it waits", Effect.map(Effect.either(Effect.scoped(beside)), Either.isLeft))
            yield* lease.release
            yield* failsWith("NotAcquired", ask({ wait: 0 }))
            yield* failsWith("NotAcquired", ask({ wait: 0, fair: true }))
            yield* soon(
              "it has it",
              Effect.sync(() => isIn)
            )
            yield* Fiber.interrupt(waiter)
          }
        }
      })
    ),
    scenario("the order of asking is that of the asking, however many wait", (lock, key) =>
      Effect.gen(function* () {
        const lease = yield* lock.acquirePermit(key, { permits: 1, wait: 0 })
        const order: Array<number> = []
        const waiters: Array<Fiber.RuntimeFiber<void, Lock.LockError>> = []
        for (let name = 1; name <= 5; name++) {
          const options = { permits: 1, wait: "forever", fair: true } as const
          const note = Effect.sync(() => void order.push(name))
          waiters.push(yield* Effect.fork(lock.withPermit(key, options)(note)))
          // so many permits that one is left when those are served that were there before
          const beside = lock.acquirePermit(key, { permits: name + 1, wait: 0 })
          yield* soon(`${name} wait`, Effect.map(Effect.either(Effect.scoped(beside)), Either.isLeft))
        }
        yield* lease.release
        for (const waiter of waiters) yield* outcome(waiter, 5_000)
        yield* Suite.equal("the order", order, [1, 2, 3, 4, 5])
      })
    ),
    scenario(
      "work under a lock that was taken away is interrupted at once",
      (lock, key) =>
        Effect.gen(function* () {
          const started = yield* Deferred.make<void>()
          let interrupted = false
          const worker = yield* Effect.fork(
            Effect.either(
              lock.withLock(key)(
                Effect.onInterrupt(Effect.zipRight(Deferred.succeed(started, undefined), Effect.never), () =>
                  Effect.sync(() => (interrupted = true))
                )
              )
            )
          )
          yield* Effect.raceFirst(Deferred.await(started), Fiber.join(worker))
          yield* steal(key)
          const exit = yield* outcome(worker, 100)
          yield* Suite.isTrue("the work was interrupted", interrupted)
          yield* Suite.isTrue(
            "the lock was lost",
            Exit.isSuccess(exit) && Either.isLeft(exit.value) && exit.value.left.reason === "Lost"
          )
        }),
      ["steal"]
    ),
    scenario(
      "a lease that was taken away says so, and its release frees nobody else's",
      (lock, key) =>
        Effect.gen(function* () {
          const lease = yield* lock.acquire(key)
          const watcher = yield* Effect.fork(Effect.flip(lease.lost))
          yield* steal(key)
          const other = yield* lock.acquire(key, { wait: 0 })
          yield* Suite.isTrue("later holders have greater tokens", other.token > lease.token)
          const exit = yield* outcome(watcher, 100)
          yield* Suite.isTrue("lost", Exit.isSuccess(exit) && exit.value.reason === "Lost")
          yield* Suite.equal("held", yield* lease.isHeld, false)
          yield* Suite.equal("release", yield* lease.release, false)
          yield* Suite.equal("the other", yield* other.isHeld, true)
          yield* failsWith("NotAcquired", lock.acquire(key, { wait: 0 }))
        }),
      ["steal"]
    ),
    scenario(
      "work that came to its end although its lock was taken away does not succeed",
      (lock, key) =>
        Effect.gen(function* () {
          yield* failsWith("Lost", lock.withLock(key)(Effect.zipRight(Effect.ignore(steal(key)), Effect.succeed(1))))
          yield* Suite.equal(
            "a failure of its own goes first",
            yield* Effect.either(lock.withLock(key)(Effect.zipRight(Effect.ignore(steal(key)), Effect.fail("own")))),
            Either.left<string | Lock.LockError>("own")
          )
        }),
      ["steal"]
    ),
    scenario("what cannot be is refused", (lock, key) =>
      Effect.gen(function* () {
        for (const bad of ["", "a{b", "a}b", "a\u0000b", "\ud800", "x".repeat(513)]) {
          yield* failsWith("InvalidOptions", lock.withLock(bad)(Effect.void))
        }
        for (const ttl of [0, -1, Number.POSITIVE_INFINITY, Number.NaN]) {
          yield* failsWith("InvalidOptions", lock.withLock(key, { ttl })(Effect.void))
        }
        for (const wait of [-1, Number.NaN]) {
          const result = yield* Effect.either(lock.withLock(key, { wait })(Effect.succeed(1)))
          // a duration is never negative: it is no waiting then
          yield* Suite.isTrue(
            "no waiting, or refused",
            Either.isRight(result) || result.left.reason === "InvalidOptions"
          )
        }
        for (const permits of [0, -1, 1.5, Number.NaN]) {
          yield* failsWith("InvalidOptions", lock.withPermit(key, { permits })(Effect.void))
        }
      })
    )
  ])
}

let keys = 0
