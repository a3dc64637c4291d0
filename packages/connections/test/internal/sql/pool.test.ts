import { assert, describe, it } from "@effect/vitest"
import { ConnectionError } from "@underlay/core/connection/Connection"
import { Deferred, Duration, Effect, Exit, Fiber, Scope, TestClock } from "effect"
import * as Pool from "../../../src/internal/sql/pool.ts"

interface Thing {
  readonly id: number
  usable: boolean
  silent: boolean
}

const refused = new ConnectionError({
  reason: "Unavailable",
  kind: "test",
  connection: "test",
  method: "connect",
  description: "refused"
})

/** A pool of things each of which is made, or answers a question, when the test says so. */
const make = Effect.fnUntraced(function* (max: number) {
  const scope = yield* Scope.make()
  yield* Effect.addFinalizer(() => Scope.close(scope, Exit.void))
  const attempts: Array<Deferred.Deferred<void, ConnectionError>> = []
  const questions: Array<Deferred.Deferred<void>> = []
  const things: Array<Thing> = []
  const destroyed: Array<number> = []
  let ended = 0
  const pool = yield* Scope.extend(
    Pool.make<Thing>({
      kind: "test",
      name: "test",
      max,
      acquireTimeout: Duration.seconds(10),
      idleTimeout: Duration.infinity,
      maxLifetime: Duration.infinity,
      drainTimeout: Duration.zero,
      makePatience: Duration.seconds(1),
      make: (made) =>
        Effect.gen(function* () {
          const attempt = yield* Deferred.make<void, ConnectionError>()
          attempts.push(attempt)
          yield* Effect.onInterrupt(Deferred.await(attempt), () =>
            Effect.sync(() => {
              ended++
            })
          )
          const thing = { id: things.length, usable: true, silent: false }
          things.push(thing)
          made(thing)
        }),
      isUsable: ({ usable }) => usable,
      onGone: () => {},
      destroy: ({ id }) => Effect.sync(() => destroyed.push(id)),
      isSilent: ({ silent }) => silent,
      check: (thing) =>
        Effect.gen(function* () {
          const question = yield* Deferred.make<void>()
          questions.push(question)
          yield* Deferred.await(question)
          return thing
        })
    }),
    scope
  )
  const settle = (attempt: number, exit: Exit.Exit<void, ConnectionError>) =>
    Effect.suspend(() => {
      const deferred = attempts[attempt]
      return deferred === undefined ? Effect.dieMessage(`no attempt ${attempt}`) : Deferred.done(deferred, exit)
    }).pipe(Effect.zipRight(quiet))
  const answer = (question: number) =>
    Effect.suspend(() => {
      const deferred = questions[question]
      return deferred === undefined
        ? Effect.dieMessage(`no question ${question}`)
        : Deferred.succeed(deferred, undefined)
    }).pipe(Effect.zipRight(quiet))
  /** One that is lent until it is given back. */
  const borrow = Effect.gen(function* () {
    const own = yield* Scope.make()
    const thing = yield* Scope.extend(pool.acquire, own)
    return { thing, back: Effect.zipRight(Scope.close(own, Exit.void), quiet) }
  })
  /** One who waits, until told otherwise. */
  const waits = Effect.tap(Effect.fork(borrow), () => quiet)
  return {
    pool,
    destroyed,
    settle,
    answer,
    borrow,
    waits,
    close: Scope.close(scope, Exit.void),
    made: () => attempts.length,
    ended: () => ended,
    asked: () => questions.length
  }
})

const quiet = Effect.repeatN(Effect.yieldNow(), 50)

describe("a pool", () => {
  it.scoped("does not rely on what takes long and was begun for one who has left, and begins another", () =>
    Effect.gen(function* () {
      const { ended, made, pool, settle, waits } = yield* make(4)
      yield* Fiber.interrupt(yield* waits)
      assert.strictEqual(made(), 1)
      yield* TestClock.adjust("900 millis")
      const second = yield* waits
      // It may come any moment.
      assert.strictEqual(made(), 1)
      yield* Fiber.interrupt(second)
      yield* TestClock.adjust("100 millis")
      const third = yield* waits
      assert.strictEqual(made(), 2)
      yield* settle(1, Exit.void)
      assert.strictEqual((yield* Fiber.join(third)).thing.id, 0)
      // The first takes too long by now, and the later is there.
      assert.strictEqual(ended(), 1)
      assert.deepInclude(yield* pool.stats, { total: 1, inUse: 1, waiting: 0 })
    })
  )

  it.scoped("keeps what takes long where there is no room for another, and lends it", () =>
    Effect.gen(function* () {
      const { ended, made, settle, waits } = yield* make(1)
      yield* Fiber.interrupt(yield* waits)
      yield* TestClock.adjust("4 seconds")
      const second = yield* waits
      assert.strictEqual(made(), 1)
      yield* settle(0, Exit.void)
      assert.strictEqual((yield* Fiber.join(second)).thing.id, 0)
      assert.strictEqual(ended(), 0)
    })
  )

  it.scoped("tells a failure to the one for whom it was begun, and to nobody else", () =>
    Effect.gen(function* () {
      const { made, pool, settle, waits } = yield* make(4)
      yield* Fiber.interrupt(yield* waits)
      yield* TestClock.adjust("1 second")
      const second = yield* waits
      yield* settle(0, Exit.fail(refused))
      assert.isNull(yield* Fiber.poll(second).pipe(Effect.map((exit) => (exit._tag === "None" ? null : exit.value))))
      yield* settle(1, Exit.fail(refused))
      assert.strictEqual(yield* Effect.flip(Fiber.join(second)), refused)
      // Each of several has one of their own, however slow they are.
      const both = [yield* waits, yield* waits]
      yield* TestClock.adjust("2 seconds")
      const late = yield* waits
      assert.strictEqual(made(), 5)
      for (let attempt = 2; attempt < 5; attempt++) yield* settle(attempt, Exit.fail(refused))
      for (const fiber of [...both, late]) assert.strictEqual(yield* Effect.flip(Fiber.join(fiber)), refused)
      assert.deepInclude(yield* pool.stats, { total: 0, waiting: 0 })
    })
  )

  it.scoped("where what is made is refused at once makes one for each caller, and no more", () =>
    Effect.gen(function* () {
      let made = 0
      const pool = yield* Pool.make<Thing>({
        kind: "test",
        name: "test",
        max: 1,
        acquireTimeout: Duration.seconds(10),
        idleTimeout: Duration.infinity,
        maxLifetime: Duration.infinity,
        drainTimeout: Duration.zero,
        makePatience: Duration.seconds(1),
        make: () =>
          Effect.suspend(() => {
            made++
            // The first makes the others wait.
            return made === 1 ? Effect.zipRight(quiet, Effect.fail(refused)) : Effect.fail(refused)
          }),
        isUsable: () => true,
        onGone: () => {},
        destroy: () => Effect.void
      })
      const told: Array<unknown> = []
      for (let caller = 0; caller < 4; caller++) pool.request((granted) => told.push(granted))
      yield* quiet
      yield* quiet
      assert.deepStrictEqual(told, [refused, refused, refused, refused])
      assert.strictEqual(made, 4)
    })
  )

  it.scoped("lends none that is suspected before it has answered; one that does not is gone", () =>
    Effect.gen(function* () {
      const { answer, asked, borrow, destroyed, pool, settle, waits } = yield* make(3)
      const [one, two, three] = [yield* waits, yield* waits, yield* waits]
      for (let attempt = 0; attempt < 3; attempt++) yield* settle(attempt, Exit.void)
      const [first, second, third] = [yield* Fiber.join(one), yield* Fiber.join(two), yield* Fiber.join(three)]
      yield* second.back
      yield* third.back
      // One is given up because nothing came: the two that are idle have to say something.
      first.thing.usable = false
      first.thing.silent = true
      yield* first.back
      assert.deepStrictEqual(destroyed, [0])
      assert.strictEqual(asked(), 2)
      assert.deepInclude(yield* pool.stats, { total: 2, idle: 2, inUse: 0 })
      pool.suspect()
      yield* quiet
      assert.strictEqual(asked(), 2)
      const waiting = yield* waits
      assert.isTrue((yield* Fiber.poll(waiting))._tag === "None")
      second.thing.usable = false
      yield* answer(0)
      assert.deepStrictEqual(destroyed, [0, 1])
      yield* answer(1)
      const lent = yield* Fiber.join(waiting)
      assert.strictEqual(lent.thing.id, 2)
      yield* lent.back
      // It has answered, and needs not be asked again.
      assert.strictEqual((yield* borrow).thing.id, 2)
      assert.strictEqual(asked(), 2)
    })
  )

  it.scoped("released while one is asked, it is destroyed once", () =>
    Effect.gen(function* () {
      const { answer, close, destroyed, pool, settle, waits } = yield* make(1)
      const begun = yield* waits
      yield* settle(0, Exit.void)
      yield* (yield* Fiber.join(begun)).back
      pool.suspect()
      yield* quiet
      yield* close
      assert.deepStrictEqual(destroyed, [0])
      yield* answer(0)
      assert.deepStrictEqual(destroyed, [0])
      assert.deepInclude(yield* pool.stats, { total: 0, idle: 0 })
    })
  )
})
