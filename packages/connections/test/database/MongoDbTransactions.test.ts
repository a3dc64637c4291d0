import { assert, describe, layer } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Fiber, Option, Schedule, Scope, Stream } from "effect"
import * as MongoDb from "../../src/database/MongoDb.ts"
import { connect, double, eventually, fresh, reasonOf, Server } from "./mongoTest.ts"

const noneIsOpen = Effect.flatMap(Server, (server) =>
  eventually(
    "no transaction and no cursor is left",
    Effect.map(server.counts, ({ cursors, transactions }) => transactions === 0 && cursors === 0)
  )
)

describe("MongoDb transactions", () => {
  layer(double(), { excludeTestServices: true })("on a replica set", (it) => {
    it.scoped("it is committed when the effect succeeds, nobody sees it before, and forked fibers belong to it", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const users = fresh(db)
        assert.isTrue((yield* db.capabilities).transactions)
        const result = yield* db.transaction(
          Effect.gen(function* () {
            yield* users.insertOne({ name: "ann", age: 1 })
            const fiber = yield* Effect.fork(users.insertOne({ name: "bob", age: 2 }))
            yield* Fiber.join(fiber)
            yield* Effect.all(
              Array.from({ length: 10 }, (_, age) => users.insertOne({ name: "cid", age })),
              { concurrency: "unbounded" }
            )
            assert.strictEqual(yield* users.countDocuments(), 12)
            assert.strictEqual(yield* db.withoutTransaction(users.countDocuments()), 0)
            // the cursor and the writes take turns in the session
            yield* Stream.runForEach(users.find({ name: "cid" }, { batchSize: 3 }), (user) =>
              users.updateOne({ name: "cid", age: user.age }, { $inc: { age: 100 } })
            )
            assert.strictEqual(yield* users.countDocuments({ age: { $gte: 100 } }), 10)
            return "done"
          })
        )
        assert.strictEqual(result, "done")
        assert.strictEqual(yield* users.countDocuments(), 12)
        yield* noneIsOpen
      })
    )

    it.scoped("it is rolled back when the effect fails, dies or is interrupted", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const users = fresh(db)
        const insert = users.insertOne({ name: "ann", age: 1 })
        assert.strictEqual(
          yield* Effect.flip(db.transaction(Effect.zipRight(insert, Effect.fail("mine" as const)))),
          "mine"
        )
        assert.isTrue(Exit.isFailure(yield* Effect.exit(db.transaction(Effect.zipRight(insert, Effect.die("dead"))))))
        const begun = yield* Deferred.make<void>()
        const fiber = yield* Effect.fork(
          db.transaction(Effect.zipRight(Effect.zipRight(insert, Deferred.succeed(begun, undefined)), Effect.never))
        )
        yield* Deferred.await(begun)
        yield* Fiber.interrupt(fiber)
        yield* noneIsOpen
        assert.strictEqual(yield* users.countDocuments(), 0)
      })
    )

    it.scoped(
      "an operation that is interrupted in it ends it in under 100 ms, and it cannot be committed any more",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          const db = yield* connect()
          const users = fresh(db)
          yield* users.insertOne({ name: "zoe", age: 1 })
          let best = Number.POSITIVE_INFINITY
          for (let round = 0; round < 5; round++) {
            const begun = yield* Deferred.make<void>()
            yield* server.fail({ commands: ["update"], delayMillis: 20_000 })
            const fiber = yield* Effect.fork(
              db.transaction(
                Effect.gen(function* () {
                  yield* users.insertOne({ name: "ann", age: 1 })
                  yield* Deferred.succeed(begun, undefined)
                  yield* users.updateMany({}, { $inc: { age: 1 } })
                })
              )
            )
            yield* Deferred.await(begun)
            yield* Effect.sleep(20)
            const from = performance.now()
            yield* Fiber.interrupt(fiber)
            best = Math.min(best, performance.now() - from)
            yield* noneIsOpen
          }
          assert.isBelow(best, 100)
          assert.strictEqual(yield* users.countDocuments(), 1)
          yield* server.fail({ commands: ["update"], delayMillis: 20_000 })
          const error = yield* Effect.flip(
            db.transaction(
              Effect.gen(function* () {
                yield* users.insertOne({ name: "ann", age: 1 })
                yield* Effect.timeoutOption(users.updateMany({}, { $inc: { age: 1 } }), 20)
                assert.strictEqual(reasonOf(yield* Effect.flip(users.countDocuments())), "InvalidRequest")
              })
            )
          )
          assert.strictEqual(reasonOf(error), "Cancelled")
          assert.strictEqual(yield* users.countDocuments(), 1)
          yield* noneIsOpen
        })
    )

    it.scoped("after a write conflict the whole is run again, and every increment counts", () =>
      Effect.gen(function* () {
        const db = yield* connect({ maxConnections: 20 })
        const users = fresh(db)
        const id = yield* users.insertOne({ name: "counter", age: 0 })
        let runs = 0
        const once = db.transaction(
          Effect.gen(function* () {
            runs++
            const user = yield* Effect.flatMap(users.findById(id), (it) => it)
            yield* Effect.yieldNow()
            yield* users.updateOne({ name: "counter" }, { $set: { age: user.age + 1 } })
          }),
          { retries: 200 }
        )
        yield* Effect.all(
          Array.from({ length: 10 }, () => once),
          { concurrency: "unbounded" }
        )
        assert.strictEqual((yield* Effect.flatMap(users.findById(id), (it) => it)).age, 10)
        assert.isAbove(runs, 10)
        yield* noneIsOpen
      })
    )

    it.scoped("TransientTransactionError: the whole again, as often as is allowed, then the error", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect()
        const users = fresh(db)
        let runs = 0
        const body = Effect.suspend(() => {
          runs++
          return users.insertOne({ name: "ann", age: runs })
        })
        const fault = { commands: ["insert"], code: 112, labels: ["TransientTransactionError"] }
        yield* server.fail({ ...fault, times: 2 })
        yield* db.transaction(body)
        assert.strictEqual(runs, 3)
        assert.strictEqual(yield* users.countDocuments(), 1)
        runs = 0
        yield* server.fail({ ...fault, times: 4 })
        const error = yield* Effect.flip(db.transaction(body, { retries: 3 }))
        assert.strictEqual(runs, 4)
        assert.strictEqual(reasonOf(error), "Conflict")
        runs = 0
        yield* server.fail({ commands: ["commitTransaction"], code: 112, labels: ["TransientTransactionError"] })
        yield* db.transaction(body, { schedule: Schedule.recurs(1) })
        assert.strictEqual(runs, 2)
        // a write of many that fails with the label is no failure of its documents
        runs = 0
        yield* server.fail(fault)
        yield* db.transaction(
          Effect.suspend(() => {
            runs++
            return users.insertMany([{ name: "bob", age: 1 }])
          })
        )
        assert.strictEqual(runs, 2)
        // an effect that turns the error into one of its own is run again too
        runs = 0
        yield* server.fail(fault)
        yield* db.transaction(Effect.mapError(body, () => "mine"))
        assert.strictEqual(runs, 2)
        yield* noneIsOpen
      })
    )

    it.scoped("on the external plane the error is the one of the operation, and nothing is made again within it", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect({ plane: "external", maxConnections: 1, acquireTimeout: "100 millis" })
        const users = fresh(db)
        yield* server.fail({ commands: ["find"], delayMillis: 1_500 })
        const slow = yield* Effect.fork(users.findAll({}))
        yield* eventually(
          "the socket is in use",
          Effect.map(db.stats, ({ inUse }) => inUse === 1)
        )
        const error = yield* Effect.flip(db.transaction(users.insertOne({ name: "ann", age: 1 })))
        assert.strictEqual(reasonOf(error), "Throttled")
        yield* Fiber.join(slow)
        yield* noneIsOpen
      })
    )

    it.scoped("a COMMIT whose answer is lost is sent again, the effect is not run again", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect()
        const users = fresh(db)
        let runs = 0
        const body = Effect.suspend(() => {
          runs++
          return users.insertOne({ name: "ann", age: runs })
        })
        const commits = Effect.map(server.counts, ({ commands }) => commands["commitTransaction"] ?? 0)
        const before = yield* commits
        // the server has committed, and the socket breaks
        yield* server.fail({ commands: ["commitTransaction"], reset: true, after: true, times: 2 })
        yield* db.transaction(body)
        assert.strictEqual(runs, 1)
        assert.strictEqual((yield* commits) - before, 3)
        assert.strictEqual(yield* users.countDocuments(), 1)
        yield* server.fail({
          commands: ["commitTransaction"],
          writeConcernError: { code: 64, codeName: "WriteConcernTimeout", errmsg: "waiting for replication timed out" }
        })
        yield* db.transaction(body)
        assert.strictEqual(runs, 2)
        assert.strictEqual(yield* users.countDocuments(), 2)
        yield* noneIsOpen
      })
    )

    it.scoped("a COMMIT that stays unknown says so, is not retryable, and the effect is never run again", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect()
        const users = fresh(db)
        let runs = 0
        const body = Effect.suspend(() => {
          runs++
          return users.insertOne({ name: "ann", age: runs })
        })
        yield* server.fail({ commands: ["commitTransaction"], reset: true, after: true, times: 100 })
        const error = yield* Effect.flip(db.transaction(body))
        yield* server.calm
        assert.instanceOf(error, MongoDb.CommitOutcomeUnknown)
        assert.isFalse(error.isRetryable)
        assert.include(error.message, "not known")
        assert.strictEqual(runs, 1)
        assert.strictEqual(yield* users.countDocuments(), 1)
        // lost, and then the server says that it does not know the transaction: it may have been committed
        runs = 0
        yield* server.fail({ commands: ["commitTransaction"], reset: true, times: 1 })
        yield* server.fail({
          commands: ["commitTransaction"],
          code: 251,
          codeName: "NoSuchTransaction",
          labels: ["TransientTransactionError"],
          times: 100
        })
        const second = yield* Effect.flip(db.transaction(body))
        yield* server.calm
        assert.instanceOf(second, MongoDb.CommitOutcomeUnknown)
        assert.strictEqual(runs, 1)
        yield* noneIsOpen
      })
    )

    it.scoped("a COMMIT that hangs is unknown in time, and nothing else is sent in its session meanwhile", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect({ endTimeout: "300 millis" })
        const users = fresh(db)
        const aborts = Effect.map(server.counts, ({ commands }) => commands["abortTransaction"] ?? 0)
        const before = yield* aborts
        yield* users.insertOne({ name: "zoe", age: 1 })
        // a server that does not keep to maxTimeMS either
        yield* server.fail({ commands: ["commitTransaction"], delayMillis: 1_000, ignoreMaxTime: true })
        const error = yield* Effect.flip(db.transaction(users.insertOne({ name: "ann", age: 1 })))
        assert.instanceOf(error, MongoDb.CommitOutcomeUnknown)
        assert.strictEqual(error.attempts, 1)
        yield* eventually(
          "it was committed after all",
          Effect.map(users.countDocuments(), (count) => count === 2)
        )
        assert.strictEqual(yield* aborts, before)
        yield* noneIsOpen
      })
    )

    for (const plane of ["internal", "external"] as const) {
      it.scoped(`${plane}: released in the midst of COMMIT: whether it was done is unknown, and is said to be`, () =>
        Effect.gen(function* () {
          const server = yield* Server
          const watching = yield* connect()
          const users = fresh(watching)
          yield* users.insertOne({ name: "zoe", age: 1 })
          const scope = yield* Scope.make()
          const db = yield* Scope.extend(connect({ plane, drainTimeout: "200 millis" }), scope)
          const commits = Effect.map(server.counts, ({ commands }) => commands["commitTransaction"] ?? 0)
          const before = yield* commits
          yield* server.fail({ commands: ["commitTransaction"], delayMillis: 1_000, ignoreMaxTime: true })
          const same = db.collection(users.name)
          const inserted = yield* Deferred.make<void>()
          const insert = Effect.ensuring(same.insertOne({ name: "ann" }), Deferred.succeed(inserted, undefined))
          const fiber = yield* Effect.fork(Effect.flip(db.transaction(insert)))
          yield* Deferred.await(inserted)
          yield* eventually(
            "COMMIT is under way",
            Effect.map(db.stats, ({ inUse }) => inUse === 1)
          )
          yield* Scope.close(scope, Exit.void)
          const error = yield* Fiber.join(fiber)
          assert.instanceOf(error, MongoDb.CommitOutcomeUnknown)
          assert.strictEqual(error.attempts, 1)
          assert.isFalse(error.isRetryable)
          assert.isAtMost((yield* commits) - before, 1)
        })
      )
    }

    it.scoped("what ends after its connection was released is not committed, and nobody tries for long", () =>
      Effect.gen(function* () {
        const live = yield* Effect.clock
        let sleeps = 0
        const counting: Clock.Clock = {
          [Clock.ClockTypeId]: Clock.ClockTypeId,
          unsafeCurrentTimeMillis: () => live.unsafeCurrentTimeMillis(),
          unsafeCurrentTimeNanos: () => live.unsafeCurrentTimeNanos(),
          currentTimeMillis: live.currentTimeMillis,
          currentTimeNanos: live.currentTimeNanos,
          sleep: (duration) =>
            Effect.suspend(() => {
              sleeps++
              return live.sleep(duration)
            })
        }
        const users = fresh(yield* connect())
        yield* users.insertOne({ name: "zoe", age: 1 })
        const scope = yield* Scope.make()
        const db = yield* Scope.extend(connect({ drainTimeout: "100 millis" }), scope)
        const same = db.collection(users.name)
        const inside = yield* Deferred.make<void>()
        const gate = yield* Deferred.make<void>()
        const body = Effect.zipRight(
          same.insertOne({ name: "ann" }),
          Effect.zipRight(Deferred.succeed(inside, undefined), Deferred.await(gate))
        )
        const fiber = yield* Effect.forkDaemon(
          Effect.uninterruptible(Effect.flip(db.transaction(body))).pipe(Effect.withClock(counting))
        )
        yield* Deferred.await(inside)
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual(reasonOf(yield* Fiber.join(fiber)), "Closed")
        const before = sleeps
        yield* Deferred.succeed(gate, undefined)
        yield* Effect.sleep(400)
        assert.isAtMost(sleeps - before, 2)
        assert.strictEqual(yield* users.countDocuments(), 1)
        yield* noneIsOpen
      })
    )

    it.scoped("one within another joins it; what fails within it takes all of it along", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect()
        const users = fresh(db)
        const before = (yield* server.counts).commands["commitTransaction"] ?? 0
        yield* db.transaction(
          Effect.zipRight(
            users.insertOne({ name: "a", age: 1 }),
            db.transaction(users.insertOne({ name: "b", age: 1 }))
          )
        )
        assert.strictEqual(((yield* server.counts).commands["commitTransaction"] ?? 0) - before, 1)
        assert.strictEqual(yield* users.countDocuments(), 2)
        const error = yield* Effect.flip(
          db.transaction(
            Effect.gen(function* () {
              yield* users.insertOne({ name: "c", age: 1 })
              yield* Effect.ignore(
                db.transaction(Effect.zipRight(users.insertOne({ name: "d", age: 1 }), Effect.fail("mine")))
              )
            })
          )
        )
        assert.strictEqual(reasonOf(error), "InvalidRequest")
        assert.strictEqual(yield* users.countDocuments(), 2)
        yield* noneIsOpen
      })
    )

    it.scoped("its session is not used after its end, nor by who joins a fiber of it", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const users = fresh(db)
        const ended = yield* Deferred.make<void>()
        const late = yield* db.transaction(
          Effect.zipRight(
            users.insertOne({ name: "a", age: 1 }),
            Effect.forkDaemon(Effect.zipRight(Deferred.await(ended), Effect.flip(users.countDocuments())))
          )
        )
        yield* Deferred.succeed(ended, undefined)
        assert.strictEqual(reasonOf(yield* Fiber.join(late)), "Closed")
        // a fiber that joins another that is in a transaction stays outside of it
        const inside = yield* Deferred.make<void>()
        const go = yield* Deferred.make<void>()
        const begun = yield* Effect.fork(
          db.transaction(
            Effect.gen(function* () {
              yield* users.insertOne({ name: "b", age: 1 })
              const child = yield* Effect.forkDaemon(users.countDocuments())
              yield* Deferred.succeed(inside, undefined)
              yield* Deferred.await(go)
              return child
            })
          )
        )
        yield* Deferred.await(inside)
        assert.strictEqual(yield* users.countDocuments(), 1)
        yield* Deferred.succeed(go, undefined)
        yield* Fiber.join(yield* Fiber.join(begun))
        assert.strictEqual(yield* users.countDocuments(), 2)
        assert.isTrue(Option.isSome(yield* users.findOne({ name: "b" })))
        yield* noneIsOpen
      })
    )

    it.scoped("two connections do not mix: a transaction of one is none of the other's", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const other = yield* connect()
        const users = fresh(db)
        const same = other.collection(users.name)
        yield* Effect.ignore(
          db.transaction(
            Effect.gen(function* () {
              yield* users.insertOne({ name: "a", age: 1 })
              yield* same.insertOne({ name: "b" })
              return yield* Effect.fail("mine")
            })
          )
        )
        assert.strictEqual(yield* users.countDocuments(), 1)
      })
    )

    it.scoped("what fails on the server within it ends it; what is caught is not committed", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const users = fresh(db)
        yield* users.createIndexes([{ key: { name: 1 }, unique: true }])
        yield* users.insertOne({ name: "a", age: 1 })
        const error = yield* Effect.flip(
          db.transaction(
            Effect.gen(function* () {
              yield* users.insertOne({ name: "b", age: 1 })
              assert.strictEqual(
                reasonOf(yield* Effect.flip(users.insertOne({ name: "a", age: 2 }))),
                "ConstraintViolation"
              )
              assert.strictEqual(reasonOf(yield* Effect.flip(users.countDocuments())), "InvalidRequest")
            })
          )
        )
        assert.strictEqual(reasonOf(error), "ConstraintViolation")
        assert.strictEqual(yield* users.countDocuments(), 1)
        yield* noneIsOpen
      })
    )
  })

  layer(double({ topology: "standalone" }), { excludeTestServices: true })("on a standalone server", (it) => {
    it.scoped("Unsupported, before anything is run; change streams too", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        assert.deepStrictEqual(yield* db.capabilities, { transactions: false, changeStreams: false })
        let runs = 0
        const error = yield* Effect.flip(db.transaction(Effect.sync(() => runs++)))
        assert.strictEqual(reasonOf(error), "Unsupported")
        assert.strictEqual(runs, 0)
        assert.strictEqual(reasonOf(yield* Effect.flip(Stream.runDrain(fresh(db).watch()))), "Unsupported")
      })
    )
  })
})
