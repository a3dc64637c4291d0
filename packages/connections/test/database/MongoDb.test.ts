import { assert, describe, layer } from "@effect/vitest"
import { ConnectionSuite } from "@underlay/core/testing"
import { BigDecimal, Chunk, Effect, Fiber, Option, Schema, Stream } from "effect"
import type * as Mongo from "mongodb"
import * as MongoDb from "../../src/database/MongoDb.ts"
import { connect, double, eventually, fresh, reasonOf, Server, User } from "./mongoTest.ts"

describe("MongoDb", () => {
  describe("the contract of connections", () => {
    layer(double(), { excludeTestServices: true })((it) => {
      const suite = ConnectionSuite.suite({
        make: connect({ drainTimeout: "200 millis" }),
        ask: (db: MongoDb.Database) => Effect.map(db.command({ ping: 1 }), (answer) => answer["ok"]),
        expected: 1
      })
      for (const each of suite.cases) it.effect(each.name, () => each.run)
    })
  })

  layer(double(), { excludeTestServices: true })("collections", (it) => {
    it.scoped("a document goes there and back, its types with it", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const things = db.collection(
          "things",
          Schema.Struct({
            _id: MongoDb.ObjectIdHex,
            at: Schema.ValidDateFromSelf,
            bytes: MongoDb.Bytes,
            big: MongoDb.Long,
            small: MongoDb.Long,
            price: MongoDb.Decimal,
            nested: Schema.Struct({ list: Schema.Array(Schema.Struct({ a: Schema.NullOr(Schema.Number) })) }),
            maybe: Schema.optional(Schema.String)
          })
        )
        const given = {
          at: new Date(1_700_000_000_123),
          bytes: new Uint8Array([0, 1, 255]),
          big: 2n ** 62n,
          small: 5n,
          price: BigDecimal.unsafeFromString("12.75"),
          nested: { list: [{ a: 1 }, { a: null }] }
        }
        const id = yield* things.insertOne(given)
        assert.match(id, /^[0-9a-f]{24}$/)
        const found = yield* Effect.flatMap(things.findById(id), (it) => it)
        assert.deepStrictEqual(
          { ...found, price: BigDecimal.format(found.price), bytes: [...found.bytes] },
          {
            ...given,
            _id: id,
            price: "12.75",
            bytes: [0, 1, 255]
          }
        )
        // what was stored is BSON, not texts
        const raw = yield* Effect.flatMap(db.collection("things").findOne({}), (it) => it)
        assert.strictEqual(raw["_id"]._bsontype, "ObjectId")
        assert.strictEqual(raw["price"]._bsontype, "Decimal128")
        assert.instanceOf(raw["at"], Date)
        assert.isFalse("maybe" in raw)
      })
    )

    it.scoped("insert, find, update, replace and delete do what they say", () =>
      Effect.gen(function* () {
        const users = fresh(yield* connect())
        const [ann, bob] = yield* users.insertMany([
          { name: "ann", age: 30 },
          { name: "bob", age: 40, tags: ["a"] }
        ])
        assert.isDefined(ann)
        assert.isDefined(bob)
        assert.strictEqual(yield* users.countDocuments(), 2)
        assert.strictEqual(yield* users.countDocuments({ age: { $gt: 35 } }), 1)
        assert.strictEqual(yield* users.estimatedCount, 2)
        assert.deepStrictEqual(yield* users.updateOne({ name: "ann" }, { $inc: { age: 1 } }), {
          matched: 1,
          modified: 1,
          upsertedId: Option.none()
        })
        assert.deepStrictEqual(
          (yield* users.findAll({}, { sort: { name: 1 } })).map(({ age, name }) => [name, age]),
          [
            ["ann", 31],
            ["bob", 40]
          ]
        )
        const made = yield* users.updateOne({ name: "cid" }, { $set: { age: 5 } }, { upsert: true })
        assert.isTrue(Option.isSome(made.upsertedId))
        assert.strictEqual((yield* users.updateMany({}, [{ $set: { age: { $add: ["$age", 1] } } }])).modified, 3)
        assert.deepStrictEqual(yield* users.distinct("age", Schema.Number, { name: { $ne: "cid" } }), [32, 41])
        assert.strictEqual((yield* users.replaceOne({ name: "cid" }, { name: "dan", age: 1 })).modified, 1)
        const after = yield* users.findOneAndUpdate({ name: "dan" }, { $set: { age: 2 } })
        assert.strictEqual(Option.getOrThrow(after).age, 2)
        const before = yield* users.findOneAndReplace({ name: "dan" }, { name: "eve", age: 3 }, { returning: "before" })
        assert.strictEqual(Option.getOrThrow(before).age, 2)
        assert.strictEqual(Option.getOrThrow(yield* users.findOneAndDelete({ name: "eve" })).age, 3)
        assert.isTrue(Option.isNone(yield* users.findOne({ name: "eve" })))
        assert.strictEqual(yield* users.deleteOne({ name: "ann" }), 1)
        assert.strictEqual(yield* users.deleteMany({}), 1)
      })
    )

    it.scoped("find streams in batches; aggregations come by a schema of their own", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const users = fresh(yield* connect())
        yield* users.insertMany(Array.from({ length: 1_000 }, (_, index) => ({ name: `u${index}`, age: index % 10 })))
        const before = yield* server.counts
        const found = yield* Stream.runCollect(users.find({}, { batchSize: 100, sort: { _id: 1 } }))
        assert.strictEqual(Chunk.size(found), 1_000)
        assert.strictEqual(Chunk.unsafeGet(found, 999).name, "u999")
        const after = yield* server.counts
        assert.strictEqual((after.commands["getMore"] ?? 0) - (before.commands["getMore"] ?? 0), 9)
        const Group = Schema.Struct({ _id: Schema.Number, n: Schema.Number })
        const groups = yield* Stream.runCollect(
          users.aggregate([{ $group: { _id: "$age", n: { $sum: 1 } } }, { $sort: { _id: 1 } }], Group)
        )
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(groups),
          Array.from({ length: 10 }, (_, _id) => ({ _id, n: 100 }))
        )
        assert.strictEqual(
          (yield* users.aggregateAll([{ $count: "n" }], Schema.Struct({ n: Schema.Number })))[0]?.n,
          1_000
        )
      })
    )

    it.scoped("a stream that is left early, fails or is interrupted leaves no cursor and no session in use", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const users = fresh(yield* connect())
        yield* users.insertMany(Array.from({ length: 500 }, (_, index) => ({ name: `u${index}`, age: 1 })))
        const all = users.find({}, { batchSize: 10 })
        yield* Stream.runDrain(Stream.take(all, 15))
        yield* Effect.ignore(Stream.runForEach(all, () => Effect.fail("mine")))
        // at every step: none of them may be the one at which the clean-up is lost
        for (let step = 0; step < 200; step++) {
          const fiber = yield* Effect.fork(Stream.runDrain(Stream.mapEffect(all, () => Effect.yieldNow())))
          yield* Effect.yieldNow()
          if (step % 2 === 0) yield* Effect.sleep(step % 17)
          yield* Fiber.interrupt(fiber)
        }
        yield* eventually(
          "no cursor is left",
          Effect.map(server.counts, ({ cursors }) => cursors === 0)
        )
      })
    )

    it.scoped("updateMany, deleteMany and the others never take undefined for all", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect()
        const users = fresh(db)
        yield* users.insertMany([
          { name: "ann", age: 1 },
          { name: "bob", age: 2 }
        ])
        // as a caller does whose types do not see it
        const untyped: Mongo.Document = {}
        const raw = db.collection(users.name)
        const before = yield* server.counts
        for (const filter of [
          { name: untyped["name"] },
          { $or: [{ age: 1 }, { name: untyped["name"] }] },
          { age: { $gt: untyped["age"] } },
          untyped["filter"]
        ]) {
          for (const attempt of [
            raw.deleteMany(filter),
            raw.deleteOne(filter),
            raw.updateMany(filter, { $set: { age: 0 } }),
            raw.updateOne(filter, { $set: { age: 0 } }),
            raw.replaceOne(filter, { name: "x", age: 0 }),
            raw.findOneAndDelete(filter),
            raw.bulkWrite([{ deleteMany: { filter } }]),
            Stream.runDrain(raw.find(filter)),
            raw.findOne(filter)
          ]) {
            assert.strictEqual(reasonOf(yield* Effect.flip(attempt)), "InvalidRequest")
          }
        }
        const after = yield* server.counts
        assert.deepStrictEqual(after.commands, before.commands)
        assert.strictEqual(yield* users.countDocuments(), 2)
        const refused = yield* Effect.flip(raw.deleteMany({ $and: [{ name: "secret" }, { name: untyped["name"] }] }))
        assert.include(refused.message, "$and.1.name")
        assert.notInclude(refused.message, "secret")
      })
    )

    it.scoped(
      "nor what BSON leaves out besides: in instances of classes and maps, functions, in findById and $match",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          const db = yield* connect()
          const users = fresh(db)
          yield* users.insertMany([
            { name: "ann", age: 1 },
            { name: "bob", age: 2 }
          ])
          const raw = db.collection(users.name)
          class Tenant {
            readonly name: string | undefined = undefined
          }
          const untyped: Mongo.Document = { list: [], circle: {} }
          untyped["circle"].name = untyped["circle"]
          const before = yield* server.counts
          for (const filter of [
            new Tenant(),
            { $and: [new Tenant()] },
            new Map([["name", undefined]]),
            { name: () => "ann" },
            untyped["list"],
            untyped["circle"]
          ]) {
            const attempts: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
              raw.deleteMany(Object(filter)),
              raw.updateMany(Object(filter), { $set: { age: 0 } }),
              raw.bulkWrite([{ deleteMany: { filter: Object(filter) } }])
            ]
            for (const attempt of attempts) {
              assert.strictEqual(reasonOf(yield* Effect.flip(attempt)), "InvalidRequest")
            }
          }
          assert.strictEqual(reasonOf(yield* Effect.flip(raw.findById(untyped["id"]))), "InvalidRequest")
          const stages = [{ $match: { name: untyped["name"] } }]
          assert.strictEqual(reasonOf(yield* Effect.flip(raw.aggregateAll(stages, User))), "InvalidRequest")
          assert.strictEqual(
            reasonOf(yield* Effect.flip(Stream.runDrain(raw.aggregate([{ $facet: { a: stages } }], User)))),
            "InvalidRequest"
          )
          assert.deepStrictEqual((yield* server.counts).commands, before.commands)
          // what they may hold
          assert.strictEqual(yield* raw.deleteMany({ name: /^a/, joined: { $ne: new Date() }, tags: null }), 1)
        })
    )

    it.scoped("schemas with defaults, a filter or a class have their _id like others", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const fields = { _id: MongoDb.ObjectIdHex, name: Schema.String }
        const WithDefault = Schema.Struct({
          ...fields,
          tags: Schema.optionalWith(Schema.Array(Schema.String), { default: () => [] })
        })
        const withDefault = db.collection(fresh(db).name, WithDefault)
        const id = yield* withDefault.insertOne({ name: "ann", tags: ["a"] })
        assert.match(id, /^[0-9a-f]{24}$/)
        assert.deepStrictEqual(Option.getOrThrow(yield* withDefault.findById(id)), {
          _id: id,
          name: "ann",
          tags: ["a"]
        })
        assert.strictEqual((yield* withDefault.replaceOne({ name: "ann" }, { name: "bob", tags: [] })).modified, 1)
        const filtered = db.collection(
          withDefault.name,
          WithDefault.pipe(Schema.filter(({ name }) => name !== "hush-hush"))
        )
        const [second = ""] = yield* filtered.insertMany([{ name: "cid", tags: [] }])
        assert.strictEqual(Option.getOrThrow(yield* filtered.findById(second)).name, "cid")
        const refused = yield* Effect.flip(filtered.insertOne({ name: "hush-hush", tags: [] }))
        assert.instanceOf(refused, MongoDb.DocumentInvalid)
        class Person extends Schema.Class<Person>("Person")(fields) {}
        const people = db.collection(withDefault.name, Person)
        const third = yield* people.insertOne({ name: "dan" })
        const dan = Option.getOrThrow(yield* people.findById(third))
        assert.instanceOf(dan, Person)
        assert.strictEqual(dan._id, third)
        const fourth = MongoDb.ObjectIdHex.pipe(Schema.typeSchema, Schema.decodeSync)("0123456789abcdef01234567")
        assert.strictEqual(yield* people.insertOne(new Person({ _id: fourth, name: "eve" })), fourth)
      })
    )

    it.scoped(
      "a stored document that is not as the schema says is told by path, never by value; or skipped and counted",
      () =>
        Effect.gen(function* () {
          const db = yield* connect()
          const strict = fresh(db)
          const raw = db.collection(strict.name)
          yield* raw.insertMany([
            { name: "ann", age: 1, unknown: "field" },
            { name: "bob", age: "hush-hush" },
            { name: "cid", age: 3, tags: ["fine", 7] },
            { name: "dan", age: 4 }
          ])
          const first = yield* Effect.flatMap(strict.findOne({ name: "ann" }), (it) => it)
          assert.isFalse("unknown" in first)
          const seen: Array<string> = []
          const error = yield* Effect.flip(
            Stream.runForEach(strict.find({}), (user) => Effect.sync(() => seen.push(user.name)))
          )
          assert.instanceOf(error, MongoDb.DocumentInvalid)
          assert.deepStrictEqual(seen, ["ann"])
          assert.strictEqual(error.path, "age")
          assert.notInclude(`${error.message} ${JSON.stringify(error)}`, "hush-hush")
          const nested = yield* Effect.flip(strict.findOne({ name: "cid" }))
          assert.instanceOf(nested, MongoDb.DocumentInvalid)
          assert.strictEqual(nested.path, "tags.1")
          const lenient = db.collection(strict.name, User, { invalid: "skip" })
          assert.deepStrictEqual(
            (yield* lenient.findAll({})).map((user) => user.name),
            ["ann", "dan"]
          )
          assert.strictEqual(yield* lenient.skipped, 2)
          const wrong = yield* Effect.flip(
            strict.insertMany([
              { name: "x", age: 1 },
              { name: "y", age: "old" as never }
            ])
          )
          assert.instanceOf(wrong, MongoDb.DocumentInvalid)
          assert.deepStrictEqual([wrong.direction, wrong.path], ["encode", "1.age"])
        })
    )

    it.scoped("a unique index forbids with ConstraintViolation, its fields and not its values", () =>
      Effect.gen(function* () {
        const users = fresh(yield* connect())
        assert.deepStrictEqual(yield* users.createIndexes([{ key: { name: 1 }, unique: true }, { key: { age: 1 } }]), [
          "name_1",
          "age_1"
        ])
        assert.strictEqual((yield* users.listIndexes).length, 3)
        yield* users.insertOne({ name: "hush-hush", age: 1 })
        const error = yield* Effect.flip(users.insertOne({ name: "hush-hush", age: 2 }))
        assert.strictEqual(reasonOf(error), "ConstraintViolation")
        assert.include(error.message, "(name)")
        assert.notInclude(error.message, "hush-hush")
        yield* users.dropIndex("name_1")
        yield* users.insertOne({ name: "hush-hush", age: 2 })
        assert.strictEqual(reasonOf(yield* Effect.flip(users.dropIndex("name_1"))), "NotFound")
      })
    )

    it.scoped("a write of many says which were refused, by index and code, and what was done", () =>
      Effect.gen(function* () {
        const users = fresh(yield* connect())
        yield* users.createIndexes([{ key: { name: 1 }, unique: true }])
        const documents = ["a", "b", "a", "c", "b"].map((name, age) => ({ name: `hush-${name}`, age }))
        const unordered = yield* Effect.flip(users.insertMany(documents, { ordered: false }))
        assert.instanceOf(unordered, MongoDb.BulkWriteError)
        assert.strictEqual(unordered.inserted, 3)
        assert.deepStrictEqual(
          unordered.failures.map(({ code, index, reason }) => [index, code, reason]),
          [
            [2, 11000, "ConstraintViolation"],
            [4, 11000, "ConstraintViolation"]
          ]
        )
        assert.isFalse(unordered.isRetryable)
        assert.notInclude(unordered.message, "hush")
        yield* users.deleteMany({})
        const ordered = yield* Effect.flip(users.insertMany(documents))
        assert.instanceOf(ordered, MongoDb.BulkWriteError)
        assert.deepStrictEqual([ordered.inserted, ordered.failures.length], [2, 1])
        yield* users.deleteMany({})
        assert.deepStrictEqual(
          yield* users.bulkWrite([
            { insertOne: { name: "a", age: 1 } },
            { insertOne: { name: "b", age: 1 } },
            { updateMany: { filter: { age: 1 }, update: { $inc: { age: 1 } } } },
            { updateOne: { filter: { name: "c" }, update: { $set: { age: 9 } }, upsert: true } },
            { replaceOne: { filter: { name: "b" }, replacement: { name: "bb", age: 7 } } },
            { deleteOne: { filter: { name: "a" } } },
            { deleteMany: { filter: { age: { $gt: 8 } } } }
          ]),
          { inserted: 2, matched: 3, modified: 3, deleted: 2, upserted: 1 }
        )
        assert.deepStrictEqual(
          (yield* users.findAll({})).map(({ name }) => name),
          ["bb"]
        )
      })
    )
  })
})
