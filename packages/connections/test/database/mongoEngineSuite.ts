/** What is tested on every engine that speaks MongoDB's protocol: the double, DocumentDB, and MongoDB where it is given. */
import { assert, type Vitest } from "@effect/vitest"
import { BigDecimal, Chunk, Deferred, Effect, Fiber, Option, Schema, type Scope, Stream } from "effect"
import * as MongoDb from "../../src/database/MongoDb.ts"
import { eventually, reasonOf, User } from "./mongoTest.ts"

export const engineSuite = <R>(
  it: Vitest.MethodsNonLive<R, true>,
  options: {
    readonly make: Effect.Effect<MongoDb.MongoDbConnection, unknown, R | Scope.Scope>
    readonly changeStreams: boolean
  }
): void => {
  const prefix = `t${process.pid}_${Math.floor(performance.now())}_`
  let count = 0
  const fresh = Effect.acquireRelease(
    Effect.map(options.make, (db) => ({ db, users: db.collection(`${prefix}${count++}`, User) })),
    ({ users }) => Effect.ignore(users.drop)
  )

  it.scoped("documents and their types go there and back", () =>
    Effect.gen(function* () {
      const { db, users } = yield* fresh
      const things = db.collection(
        users.name,
        Schema.Struct({
          _id: MongoDb.ObjectIdHex,
          at: Schema.ValidDateFromSelf,
          bytes: MongoDb.Bytes,
          big: MongoDb.Long,
          small: MongoDb.Long,
          price: MongoDb.Decimal,
          ratio: Schema.Number
        })
      )
      const given = {
        at: new Date(1_700_000_000_123),
        bytes: new Uint8Array([0, 1, 255]),
        big: 2n ** 62n,
        small: 5n,
        price: BigDecimal.unsafeFromString("12.75"),
        ratio: 1.5
      }
      const insert = things.insertOne(given)
      const id = yield* insert
      // the same effect run again is another document
      assert.notStrictEqual(yield* insert, id)
      const found = yield* Effect.flatMap(things.findById(id), (it) => it)
      assert.strictEqual(BigDecimal.format(found.price), "12.75")
      assert.deepStrictEqual([...found.bytes], [0, 1, 255])
      assert.deepStrictEqual(
        [found.at, found.big, found.small, found.ratio],
        [given.at, given.big, given.small, given.ratio]
      )
    })
  )

  it.scoped("insert, find, update, upsert, replace, modify, count, distinct, delete", () =>
    Effect.gen(function* () {
      const { users } = yield* fresh
      yield* users.insertMany([
        { name: "ann", age: 30 },
        { name: "bob", age: 40, tags: ["a", "b"] }
      ])
      assert.strictEqual(yield* users.countDocuments({ age: { $gt: 35 } }), 1)
      assert.strictEqual((yield* users.updateOne({ name: "ann" }, { $inc: { age: 1 } })).modified, 1)
      assert.strictEqual(
        (yield* users.updateMany({ tags: "b" }, { $set: { "tags.$[t]": "c" } }, { arrayFilters: [{ t: "b" }] }))
          .modified,
        1
      )
      assert.deepStrictEqual(Option.getOrThrow(yield* users.findOne({ name: "bob" })).tags, ["a", "c"])
      const upserted = yield* users.updateOne(
        { name: "cid" },
        { $set: { age: 5 }, $setOnInsert: { tags: ["new"] } },
        { upsert: true }
      )
      assert.isTrue(Option.isSome(upserted.upsertedId))
      assert.strictEqual((yield* users.updateMany({}, [{ $set: { age: { $add: ["$age", 1] } } }])).modified, 3)
      assert.deepStrictEqual(
        [...(yield* users.distinct("age", Schema.Number))].sort((a, b) => a - b),
        [6, 32, 41]
      )
      assert.strictEqual((yield* users.replaceOne({ name: "cid" }, { name: "dan", age: 1 })).modified, 1)
      assert.strictEqual(Option.getOrThrow(yield* users.findOneAndUpdate({ name: "dan" }, { $set: { age: 2 } })).age, 2)
      assert.strictEqual(
        Option.getOrThrow(yield* users.findOneAndUpdate({ name: "dan" }, { $set: { age: 3 } }, { returning: "before" }))
          .age,
        2
      )
      assert.strictEqual(Option.getOrThrow(yield* users.findOneAndDelete({ name: "dan" })).age, 3)
      assert.deepStrictEqual(
        (yield* users.findAll({}, { sort: { age: -1 } })).map(({ name }) => name),
        ["bob", "ann"]
      )
      assert.strictEqual(yield* users.deleteMany({}), 2)
    })
  )

  it.scoped("cursors in batches, aggregations, a stream that is left early", () =>
    Effect.gen(function* () {
      const { users } = yield* fresh
      yield* users.insertMany(Array.from({ length: 500 }, (_, index) => ({ name: `u${index}`, age: index % 10 })))
      assert.strictEqual(yield* Stream.runCount(users.find({}, { batchSize: 50 })), 500)
      const sorted = yield* Stream.runCollect(
        Stream.take(users.find({}, { batchSize: 7, sort: { age: 1, name: 1 } }), 60)
      )
      assert.strictEqual(Chunk.size(Chunk.filter(sorted, ({ age }) => age === 0)), 50)
      const Group = Schema.Struct({ _id: Schema.Number, n: Schema.Number })
      assert.deepStrictEqual(
        yield* users.aggregateAll([{ $group: { _id: "$age", n: { $sum: 1 } } }, { $sort: { _id: 1 } }], Group),
        Array.from({ length: 10 }, (_, _id) => ({ _id, n: 50 }))
      )
      assert.strictEqual(reasonOf(yield* Effect.flip(users.findAll({ $noSuchOperator: 1 }))), "InvalidRequest")
    })
  )

  it.scoped("unique indexes, and which of many were refused", () =>
    Effect.gen(function* () {
      const { users } = yield* fresh
      assert.deepStrictEqual(yield* users.createIndexes([{ key: { name: 1 }, unique: true }]), ["name_1"])
      yield* users.insertOne({ name: "hush-a", age: 1 })
      const one = yield* Effect.flip(users.insertOne({ name: "hush-a", age: 2 }))
      assert.strictEqual(reasonOf(one), "ConstraintViolation")
      assert.notInclude(one.message, "hush")
      const many = yield* Effect.flip(
        users.insertMany(
          ["b", "a", "c", "b"].map((name, age) => ({ name: `hush-${name}`, age })),
          { ordered: false }
        )
      )
      assert.instanceOf(many, MongoDb.BulkWriteError)
      assert.strictEqual(many.inserted, 2)
      assert.deepStrictEqual(
        many.failures.map(({ code, index }) => [index, code]),
        [
          [1, 11000],
          [3, 11000]
        ]
      )
      assert.deepStrictEqual(
        (yield* users.listIndexes).map((index) => index["name"]),
        ["_id_", "name_1"]
      )
      yield* users.dropIndex("name_1")
    })
  )

  it.scoped("transactions: committed, rolled back, interrupted, isolated; a write conflict is run again", () =>
    Effect.gen(function* () {
      const { db, users } = yield* fresh
      yield* users.insertOne({ name: "counter", age: 0 })
      yield* db.transaction(
        Effect.gen(function* () {
          yield* users.insertOne({ name: "ann", age: 1 })
          assert.strictEqual(yield* users.countDocuments(), 2)
          assert.strictEqual(yield* db.withoutTransaction(users.countDocuments()), 1)
          assert.strictEqual(yield* Stream.runCount(users.find({}, { batchSize: 1, sort: { name: 1 } })), 2)
        })
      )
      assert.strictEqual(yield* users.countDocuments(), 2)
      yield* Effect.ignore(db.transaction(Effect.zipRight(users.deleteMany({}), Effect.fail("mine"))))
      assert.strictEqual(yield* users.countDocuments(), 2)
      const begun = yield* Deferred.make<void>()
      const fiber = yield* Effect.fork(
        db.transaction(
          Effect.zipRight(Effect.zipRight(users.deleteMany({}), Deferred.succeed(begun, undefined)), Effect.never)
        )
      )
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* users.countDocuments(), 2)
      let runs = 0
      const increment = db.transaction(
        Effect.gen(function* () {
          runs++
          const user = yield* Effect.flatMap(users.findOne({ name: "counter" }), (it) => it)
          yield* Effect.yieldNow()
          yield* users.updateOne({ name: "counter" }, { $set: { age: user.age + 1 } })
        }),
        { retries: 200 }
      )
      yield* Effect.all([increment, increment, increment, increment], { concurrency: "unbounded" })
      assert.strictEqual(Option.getOrThrow(yield* users.findOne({ name: "counter" })).age, 4)
      assert.isAbove(runs, 4)
    })
  )

  it.scoped("what it says it can is what it can", () =>
    Effect.gen(function* () {
      const { db } = yield* fresh
      assert.deepStrictEqual(yield* db.capabilities, { transactions: true, changeStreams: options.changeStreams })
      // asked once
      assert.strictEqual((yield* db.capabilities).changeStreams, options.changeStreams)
    })
  )

  if (!options.changeStreams) {
    it.scoped("an engine that has no change streams says so when it is asked for one", () =>
      Effect.gen(function* () {
        const { users } = yield* fresh
        yield* users.insertOne({ name: "ann", age: 1 })
        const error = yield* Effect.flip(Stream.runDrain(users.watch()))
        assert.strictEqual(reasonOf(error), "Unsupported")
      })
    )
  }

  if (options.changeStreams) {
    it.scoped("a change stream, and where it was taken up again", () =>
      Effect.gen(function* () {
        const { users } = yield* fresh
        yield* users.insertOne({ name: "zero", age: 0 })
        const events: Array<MongoDb.ChangeEvent<typeof User.Type>> = []
        yield* Effect.forkScoped(
          Stream.runForEach(users.watch({ fullDocument: "updateLookup" }), (event) =>
            Effect.sync(() => events.push(event))
          )
        )
        // until it is known to watch
        let age = 0
        yield* eventually(
          "it watches",
          Effect.map(users.insertOne({ name: "one", age: ++age }), () => events.length > 0)
        )
        yield* users.updateOne({ name: "zero" }, { $set: { age: 7 } })
        yield* users.deleteOne({ name: "zero" })
        yield* eventually(
          "all came",
          Effect.sync(() => events.at(-1)?.operationType === "delete")
        )
        assert.strictEqual(Option.getOrThrow(events.at(-2)?.document ?? Option.none()).age, 7)
        const resumeToken = events.at(-3)?.resumeToken
        assert.isDefined(resumeToken)
        const rest = yield* Stream.runCollect(Stream.take(users.watch({ resumeAfter: resumeToken }), 2))
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(rest).map(({ operationType }) => operationType),
          ["update", "delete"]
        )
      })
    )
  }
}
