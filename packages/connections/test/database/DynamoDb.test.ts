import * as Http from "node:http"
import * as Net from "node:net"
import * as Zlib from "node:zlib"
import { assert, describe, it, layer } from "@effect/vitest"
import { type Connection, Connections } from "@underlay/core"
import { ConnectionSuite, Recording } from "@underlay/core/testing"
import * as DynaliteServer from "@underlay/servers/DynaliteServer"
import * as DynamoDbLocalServer from "@underlay/servers/DynamoDbLocalServer"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Timed from "@underlay/servers/Timed"
import {
  Chunk,
  ConfigProvider,
  Context,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  Redacted,
  Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import * as DynamoDb from "../../src/database/DynamoDb.ts"

class Server extends Context.Tag("test/DynamoServer")<Server, DynaliteServer.DynaliteServer>() {}

const fixed = {
  region: "eu-central-1",
  accessKeyId: "test",
  secretAccessKey: Redacted.make("s3cret")
}

const connect = (settings: DynamoDb.DynamoDbSettings = {}, name?: string) =>
  Effect.flatMap(Server, ({ endpoint }) => DynamoDb.make({ ...fixed, endpoint, plane: "internal", ...settings }, name))

const eventually = <A, E, R>(what: string, condition: Effect.Effect<A, E, R>, is: (value: A) => boolean) =>
  Effect.flatMap(condition, (value) => (is(value) ? Effect.succeed(value) : Effect.fail(what))).pipe(
    Effect.retry(Schedule.intersect(Schedule.spaced("20 millis"), Schedule.recurs(500)))
  )

const Order = Schema.Struct({
  customer: Schema.String,
  number: Schema.Number,
  status: Schema.Literal("open", "paid", "sent"),
  placed: Schema.Date,
  total: Schema.optional(DynamoDb.Decimal),
  count: Schema.optional(Schema.Number),
  views: Schema.optional(DynamoDb.Integer),
  tags: Schema.optional(Schema.ReadonlySetFromSelf(Schema.String)),
  lines: Schema.optional(Schema.Array(Schema.Struct({ sku: Schema.String, pieces: Schema.Number }))),
  notes: Schema.optional(Schema.Array(Schema.String)),
  address: Schema.optional(Schema.Struct({ city: Schema.String, zip: Schema.optional(Schema.String) })),
  photo: Schema.optional(Schema.Uint8ArrayFromSelf),
  expires: Schema.optional(DynamoDb.EpochSeconds)
})
type Order = typeof Order.Type

let tables = 0
const ordersOf = (dynamo: DynamoDb.Service) =>
  dynamo.table({
    name: `orders-${process.pid}-${tables++}`,
    schema: Order,
    partitionKey: "customer",
    sortKey: "number",
    indexes: {
      byStatus: { partitionKey: "status", sortKey: "placed" },
      byCount: { partitionKey: "customer", sortKey: "count", local: true }
    }
  })

/** A table of the test's own. */
const orders = (settings: DynamoDb.DynamoDbSettings = {}) =>
  Effect.gen(function* () {
    const dynamo = yield* connect(settings)
    const table = ordersOf(dynamo)
    yield* table.createTable()
    return { dynamo, table }
  })

const order = (customer: string, number: number, more: Partial<Order> = {}): Order => ({
  customer,
  number,
  status: "open",
  placed: new Date(1_700_000_000_000 + number * 1_000),
  ...more
})

const run = <A, E>(stream: Stream.Stream<A, E>) => Effect.map(Stream.runCollect(stream), Chunk.toReadonlyArray)

const reasonOf = <A, R>(effect: Effect.Effect<A, Connection.ConnectionError, R>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason)

interface Capabilities {
  readonly transactions: boolean
  readonly itemOnFailure: boolean
}

const behaviour = (
  title: string,
  server: Layer.Layer<Server, DynaliteServer.DynaliteServerError>,
  capabilities: Capabilities
) =>
  layer(server, { excludeTestServices: true, timeout: "90 seconds" })(title, (it) => {
    it.scoped("items of every kind are given back as they were", () =>
      Effect.gen(function* () {
        const { table } = yield* orders()
        const whole = order("ada", 1, {
          total: "12345678901234567890.123456789",
          views: 2n ** 70n,
          count: 0.1,
          tags: new Set(["a", "\u{1F30D}"]),
          lines: [{ sku: "x", pieces: 2 }],
          notes: [],
          address: { city: "" },
          photo: new Uint8Array([0, 1, 255]),
          expires: new Date(1_900_000_000_000)
        })
        yield* table.put(whole)
        const found = Option.getOrThrow(yield* table.get({ customer: "ada", number: 1 }, { consistent: true }))
        assert.deepStrictEqual({ ...found, photo: [...(found.photo ?? [])] }, { ...whole, photo: [0, 1, 255] } as never)
        assert.deepStrictEqual(yield* table.get({ customer: "ada", number: 2 }), Option.none())
        const old = yield* table.put(order("ada", 1, { status: "paid" }), { returnValues: "old" })
        assert.deepStrictEqual(
          Option.map(old, ({ status }) => status),
          Option.some("open")
        )
        const gone = yield* table.delete({ customer: "ada", number: 1 }, { returnValues: "old" })
        assert.deepStrictEqual(
          Option.map(gone, ({ status }) => status),
          Option.some("paid")
        )
        assert.deepStrictEqual(
          yield* table.delete({ customer: "ada", number: 1 }, { returnValues: "old" }),
          Option.none()
        )
        yield* table.delete({ customer: "ada", number: 1 })
      })
    )

    it.scoped("what cannot be kept is refused before it is sent, with its place and not its value", () =>
      Effect.gen(function* () {
        const dynamo = yield* connect()
        const Loose = Schema.Struct({ id: Schema.String, value: Schema.Unknown })
        const table = dynamo.table({ name: "none-of-these", schema: Loose, partitionKey: "id" })
        const circle: Record<string, unknown> = {}
        circle["self"] = circle
        const wrong: ReadonlyArray<unknown> = [
          Number.NaN,
          Number.POSITIVE_INFINITY,
          1e126,
          1e-131,
          10n ** 39n + 1n,
          new Set(),
          new Set(["a", 1]),
          new Date(0),
          new Map(),
          () => "secret",
          Symbol("secret"),
          [undefined],
          new Array(2),
          circle,
          { deep: { in: [Number.NaN] } }
        ]
        for (const value of wrong) {
          const error = yield* Effect.flip(table.put({ id: "secret", value }))
          assert.deepStrictEqual([error.reason, error.sent], ["InvalidRequest", false], String(typeof value))
          assert.include(error.description, "value")
          assert.notInclude(error.message, "secret")
        }
        const strict = dynamo.table({
          name: "none",
          schema: Schema.Struct({ id: Schema.NonEmptyString, n: Schema.Int }),
          partitionKey: "id"
        })
        const error = yield* Effect.flip(strict.put({ id: "a", n: 0.5 }))
        assert.include(error.description, "n")
        assert.strictEqual(yield* reasonOf(strict.get({ id: "" })), "InvalidRequest")
      })
    )

    it.scoped("conditions: each of the algebra, names that are reserved, values that look like expressions", () =>
      Effect.gen(function* () {
        const { table } = yield* orders()
        const key = { customer: "ada", number: 1 }
        yield* table.put(
          order("ada", 1, { count: 5, tags: new Set(["x", "y"]), notes: ["one"], address: { city: "Oslo" } })
        )
        type On = DynamoDb.On<typeof Order.Encoded>
        const holds: ReadonlyArray<(on: On) => DynamoDb.Condition> = [
          (on) => on.eq("status", "open"),
          (on) => on.ne("status", "paid"),
          (on) => on.and(on.gt("count", 4), on.gte("count", 5), on.lt("count", 6), on.lte("count", 5)),
          (on) => on.between("count", 5, 9),
          (on) => on.in("status", ["paid", "open"]),
          (on) => on.in(["count"], [...Array.from({ length: 98 }, (_, index) => index + 100), 5]),
          (on) => on.exists("address.city"),
          (on) => on.notExists("address.zip"),
          (on) => on.type("address", "M"),
          (on) => on.beginsWith("address.city", "Os"),
          (on) => on.contains("tags", "x"),
          (on) => on.contains("notes", "one"),
          (on) => on.eq("notes[0]", "one"),
          (on) => on.size("notes", "=", 1),
          (on) => on.or(on.eq("count", 1), on.not(on.eq("count", 2))),
          (on) => on.and(on.not(on.in("status", [])))
        ]
        for (const condition of holds) yield* table.update(key, (to) => [to.set("status", "open")], { condition })
        const fails: ReadonlyArray<(on: On) => DynamoDb.Condition> = [
          (on) => on.eq("status", "paid"),
          (on) => on.in("status", []),
          (on) => on.eq("address.city", "Oslo' OR attribute_exists(customer) OR '"),
          (on) => on.not(on.exists("status")),
          (on) => on.eq(["size", "and"], 1)
        ]
        for (const condition of fails) {
          assert.strictEqual(yield* reasonOf(table.delete(key, { condition })), "Conflict")
        }
        const error = yield* Effect.flip(table.insert(order("ada", 1, { status: "sent" }), { returnOld: true }))
        assert.deepStrictEqual([error.reason, error.code], ["Conflict", "ConditionalCheckFailedException"])
        assert.notInclude(JSON.stringify(error), "Oslo")
        if (capabilities.itemOnFailure) {
          assert.deepStrictEqual(
            Option.map(table.oldItem(error), ({ address }) => address?.city),
            Option.some("Oslo")
          )
          assert.isTrue(Option.isSome(DynamoDb.oldItem(error)))
        }
        assert.deepStrictEqual(table.oldItem(yield* Effect.flip(table.insert(order("ada", 1)))), Option.none())
        for (const path of ["", ".", "a..b", "a[", "a[x]"]) {
          const error = yield* Effect.flip(table.delete(key, { condition: (on) => on.exists(path as never) }))
          assert.deepStrictEqual([error.reason, error.sent], ["InvalidRequest", false])
        }
      })
    )

    it.scoped("updates: set, remove, add, delete from sets, append, counts", () =>
      Effect.gen(function* () {
        const { table } = yield* orders()
        const key = { customer: "ada", number: 1 }
        yield* table.put(order("ada", 1, { tags: new Set(["a", "b"]), notes: ["n"], lines: [{ sku: "s", pieces: 1 }] }))
        const changed = yield* table.update(
          key,
          (to) => [
            to.set("status", "paid"),
            to.set("lines[0].pieces", 7),
            to.add("count", 3),
            to.deleteFrom("tags", new Set(["a"])),
            to.append("notes", ["o", "p"]),
            to.setIfAbsent("address", { city: "Rom" }),
            to.increment("views", 2n ** 60n, 1)
          ],
          { returnValues: "new" }
        )
        assert.deepStrictEqual(
          [
            changed.status,
            changed.lines?.[0]?.pieces,
            changed.count,
            [...(changed.tags ?? [])],
            changed.notes,
            changed.address?.city,
            changed.views
          ],
          ["paid", 7, 3, ["b"], ["n", "o", "p"], "Rom", 2n ** 60n + 1n]
        )
        const again = yield* table.update(
          key,
          (to) => [
            to.remove("notes[1]"),
            to.prepend(["size"], ["x"]),
            to.add("tags", new Set(["c"])),
            to.increment("count", -1),
            to.setIfAbsent("address", { city: "Bonn" }),
            to.remove("views")
          ],
          { returnValues: "new" }
        )
        assert.deepStrictEqual(
          [again.notes, [...(again.tags ?? [])].sort(), again.count, again.address?.city, again.views],
          [["n", "p"], ["b", "c"], 2, "Rom", undefined]
        )
        const before = yield* table.update(key, (to) => [to.remove("count")], { returnValues: "old" })
        assert.deepStrictEqual(
          Option.map(before, ({ count }) => count),
          Option.some(2)
        )
        assert.deepStrictEqual(yield* reasonOf(table.update(key, () => [])), "InvalidRequest")
        assert.deepStrictEqual(
          yield* reasonOf(table.update(key, (to) => [to.add("tags", new Set())])),
          "InvalidRequest"
        )
        // two actions on one place are the service's to refuse
        assert.deepStrictEqual(
          yield* reasonOf(table.update(key, (to) => [to.set("status", "open"), to.remove("status")])),
          "InvalidRequest"
        )
      })
    )

    it.scoped("queries: key conditions, order, filters, limits, indexes, pages and cursors", () =>
      Effect.gen(function* () {
        const { table } = yield* orders()
        const all = Array.from({ length: 60 }, (_, index) =>
          order("ada", index, { count: index % 7, status: index % 2 === 0 ? "open" : "paid" })
        )
        const left = yield* table.writeMany({ put: [...all, order("bob", 1)] })
        assert.deepStrictEqual(left, { put: [], delete: [] })
        const numbers = (stream: Stream.Stream<Order, Connection.ConnectionError>) =>
          Effect.map(run(stream), (found) => found.map(({ number }) => number))
        const upTo = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)
        assert.deepStrictEqual(yield* numbers(table.query({ partition: "ada", pageSize: 7 })), upTo(0, 59))
        assert.deepStrictEqual(
          yield* numbers(table.query({ partition: "ada", sort: (on) => on.between(10, 15), order: "descending" })),
          upTo(10, 15).reverse()
        )
        const ranges: ReadonlyArray<
          readonly [
            sort: (on: DynamoDb.OnKey<number>) => ReturnType<DynamoDb.OnKey<number>["eq"]>,
            expected: ReadonlyArray<number>
          ]
        > = [
          [(on) => on.eq(5), [5]],
          [(on) => on.lt(2), [0, 1]],
          [(on) => on.lte(2), [0, 1, 2]],
          [(on) => on.gt(57), [58, 59]],
          [(on) => on.gte(57), [57, 58, 59]]
        ]
        for (const [sort, expected] of ranges) {
          assert.deepStrictEqual(yield* numbers(table.query({ partition: "ada", sort })), [...expected])
        }
        assert.deepStrictEqual(
          yield* numbers(table.query({ partition: "ada", filter: (on) => on.eq("count", 3), pageSize: 5, limit: 3 })),
          [3, 10, 17]
        )
        assert.deepStrictEqual(yield* numbers(table.query({ partition: "ada", limit: 4 })), [0, 1, 2, 3])
        assert.deepStrictEqual(
          yield* numbers(
            table.query({ index: "byStatus", partition: "paid", sort: (on) => on.gte(new Date(1_700_000_050_000)) })
          ),
          [51, 53, 55, 57, 59]
        )
        assert.strictEqual(
          (yield* run(table.query({ index: "byCount", partition: "ada", sort: (on) => on.eq(1) }))).length,
          9
        )
        assert.deepStrictEqual(yield* numbers(table.query({ partition: "nobody" })), [])
        const [first] = yield* run(Stream.take(table.queryPages({ partition: "ada", pageSize: 20 }), 1))
        assert.strictEqual(first?.items.length, 20)
        const after = Option.getOrThrow(first?.cursor ?? Option.none())
        assert.deepStrictEqual(yield* numbers(table.query({ partition: "ada", after })), upTo(20, 59))
        assert.strictEqual(
          yield* reasonOf(run(table.query({ partition: "ada", after: "no cursor" }))),
          "InvalidRequest"
        )
        assert.strictEqual(yield* reasonOf(run(table.query({ partition: "ada", limit: 0 }))), "InvalidRequest")
        assert.strictEqual((yield* run(table.scan())).length, 61)
        assert.strictEqual((yield* run(table.scan({ segments: 4, pageSize: 10 }))).length, 61)
        assert.strictEqual((yield* run(table.scan({ filter: (on) => on.eq("customer", "bob") }))).length, 1)
        assert.strictEqual((yield* run(table.scan({ limit: 9, pageSize: 4 }))).length, 9)
      })
    )

    it.scoped("a number that is large and whole is read as what it was put as", () =>
      Effect.gen(function* () {
        const dynamo = yield* connect()
        const table = dynamo.table({
          name: `large-${process.pid}-${tables++}`,
          schema: Schema.Struct({ id: Schema.String, n: Schema.Number, i: Schema.optional(DynamoDb.Integer) }),
          partitionKey: "id"
        })
        yield* table.createTable()
        for (const n of [2 ** 53, -(2 ** 53) - 2, 17e15, 1e21, 1e23, 1.5e300 / 1e200, Number.MAX_SAFE_INTEGER]) {
          const item = { id: "a", n, i: 10n ** 23n }
          yield* table.put(item)
          assert.deepStrictEqual(yield* table.get({ id: "a" }, { consistent: true }), Option.some(item))
        }
        for (const i of [2n ** 53n, 2n ** 53n + 1n, -(10n ** 20n), -(10n ** 25n), 123n * 10n ** 30n, 2n ** 70n]) {
          yield* table.put({ id: "a", n: 1, i })
          const found = yield* table.get({ id: "a" }, { consistent: true })
          assert.deepStrictEqual(
            Option.map(found, (item) => item.i),
            Option.some(i)
          )
        }
      })
    )

    it.scoped("batches of keys that are numbers: however they are written, they are the same", () =>
      Effect.gen(function* () {
        const dynamo = yield* connect()
        const table = dynamo.table({
          name: `amounts-${process.pid}-${tables++}`,
          schema: Schema.Struct({ amount: DynamoDb.Decimal, at: Schema.Number }),
          partitionKey: "amount",
          sortKey: "at"
        })
        yield* table.createTable()
        const keys = [
          { amount: "1.10", at: 1e21 },
          { amount: "100", at: 1e-7 },
          { amount: "0.0", at: -0 },
          { amount: "-1234567890123456.50", at: 5 }
        ]
        // the last of several for one key counts
        const left = yield* table.writeMany({
          put: [{ amount: "1.1", at: 1e21 }, { amount: "1e2", at: 1e-7 }, ...keys]
        })
        assert.deepStrictEqual(left, { put: [], delete: [] })
        const found = yield* table.getMany([...keys, { amount: "1.1", at: 1e21 }, { amount: "1e2", at: 1e-7 }])
        assert.deepStrictEqual(
          found.items.map((item) => Option.getOrUndefined(Option.map(item, ({ amount }) => Number(amount)))),
          [1.1, 100, 0, -1234567890123456.5, 1.1, 100]
        )
        assert.deepStrictEqual(found.left, [])
      })
    )

    it.scoped("batches: any number, in order, twice the same, deletions", () =>
      Effect.gen(function* () {
        const { table } = yield* orders()
        const many = Array.from({ length: 130 }, (_, index) => order("ada", index))
        yield* table.writeMany({ put: [...many, order("ada", 3, { status: "sent" })] })
        const keys = [
          { customer: "ada", number: 129 },
          ...many.map(({ customer, number }) => ({ customer, number })),
          { customer: "no", number: 1 }
        ]
        const { items, left } = yield* table.getMany(keys, { consistent: true })
        assert.deepStrictEqual(left, [])
        assert.deepStrictEqual(items.map(Option.map(({ number }) => number)).map(Option.getOrNull), [
          129,
          ...many.map(({ number }) => number),
          null
        ])
        assert.strictEqual(Option.getOrThrow(items[4] ?? Option.none()).status, "sent")
        yield* table.writeMany({ put: [order("ada", 500)], delete: [...keys, { customer: "ada", number: 500 }] })
        assert.deepStrictEqual(yield* run(table.query({ partition: "ada", consistent: true })), [])
        assert.deepStrictEqual(yield* table.getMany([]), { items: [], left: [] })
      })
    )

    it.scoped("what is stored otherwise than the schema says is a typed error without its values", () =>
      Effect.gen(function* () {
        const { dynamo, table } = yield* orders()
        yield* dynamo.request("PutItem", {
          TableName: table.name,
          Item: { customer: { S: "eve" }, number: { N: "1" }, status: { S: "s3cret status" }, placed: { S: "never" } }
        })
        const error = yield* Effect.flip(table.get({ customer: "eve", number: 1 }))
        assert.strictEqual(error.reason, "Unknown")
        assert.include(error.description, "status")
        assert.notInclude(error.message, "s3cret")
      })
    )

    it.scoped("a table that is not there, one that is there already, and deleting it", () =>
      Effect.gen(function* () {
        const { dynamo, table } = yield* orders()
        assert.strictEqual((yield* table.describe).status, "ACTIVE")
        assert.strictEqual(yield* reasonOf(table.createTable()), "Conflict")
        yield* table.deleteTable
        assert.strictEqual(yield* reasonOf(table.get({ customer: "a", number: 1 })), "NotFound")
        assert.strictEqual(yield* reasonOf(table.describe), "NotFound")
        const wrong = dynamo.table({
          name: "wrong-key",
          schema: Schema.Struct({ id: Schema.Boolean }),
          partitionKey: "id"
        })
        assert.strictEqual(yield* reasonOf(wrong.createTable()), "InvalidSettings")
        const bytes = dynamo.table({
          name: `bytes-${process.pid}-${tables++}`,
          schema: Schema.Struct({ id: Schema.Uint8ArrayFromSelf, n: Schema.NumberFromString }),
          partitionKey: "id",
          sortKey: "n"
        })
        yield* bytes.createTable()
        yield* bytes.put({ id: new Uint8Array([1, 2]), n: 7 })
        assert.deepStrictEqual(
          Option.map(yield* bytes.get({ id: new Uint8Array([1, 2]), n: 7 }), ({ n }) => n),
          Option.some(7)
        )
        yield* bytes.deleteTable
      })
    )

    it.scoped("a thousand interrupted calls leave nothing under way, and the connection works on", () =>
      Effect.gen(function* () {
        const { dynamo, table } = yield* orders()
        yield* table.put(order("ada", 1))
        for (let round = 0; round < 10; round++) {
          const fibers = yield* Effect.all(
            Array.from({ length: 100 }, (_, index) =>
              Effect.fork(
                Effect.asVoid<unknown, Connection.ConnectionError, never>(
                  index % 2 === 0 ? table.get({ customer: "ada", number: 1 }) : run(table.query({ partition: "ada" }))
                )
              )
            )
          )
          if (round % 2 === 0) yield* Effect.sleep("2 millis")
          yield* Fiber.interruptAll(fibers)
        }
        yield* eventually("quiet", dynamo.connection.stats, ({ inUse, waiting }) => inUse === 0 && waiting === 0)
        assert.isTrue(Option.isSome(yield* table.get({ customer: "ada", number: 1 })))
      })
    )

    it.scoped(
      "internal: nothing is emitted; external: one span a request, named after it, without keys and values",
      () =>
        Effect.gen(function* () {
          const { table } = yield* orders()
          yield* Recording.assertSilent(
            Effect.all([
              table.put(order("ada", 1)),
              table.get({ customer: "ada", number: 1 }),
              run(table.query({ partition: "ada" }))
            ])
          )
          const watched = yield* connect({ plane: "external" }, "watched")
          const same = watched.table({ name: table.name, schema: Order, partitionKey: "customer", sortKey: "number" })
          const recording = yield* Recording.make
          yield* recording.within(
            Effect.all([
              same.put(order("s3cret-customer", 1)),
              same.get({ customer: "s3cret-customer", number: 1 }),
              run(same.query({ partition: "s3cret-customer" })),
              Effect.flip(same.insert(order("s3cret-customer", 1)))
            ])
          )
          const spans = yield* recording.spans
          assert.deepStrictEqual(
            spans.map(({ kind, name }) => [name, kind]),
            ["PutItem", "GetItem", "Query", "PutItem"].map((name) => [`DynamoDB.${name}`, "client"])
          )
          assert.strictEqual((yield* recording.lines).length, 4)
          const shown = JSON.stringify(
            [spans.map(({ attributes }) => [...attributes]), yield* recording.lines],
            (_, value) => (typeof value === "bigint" ? String(value) : value)
          )
          assert.notInclude(shown, "s3cret")
        })
    )

    describe("suite of connections", () => {
      const suite = ConnectionSuite.suite({
        make: Effect.map(connect(), ({ connection }) => connection),
        ask: (client: DynamoDb.Service) =>
          Effect.map(client.request("ListTables", { Limit: 1 }), (output) => Array.isArray(output["TableNames"])),
        expected: true
      })
      for (const one of suite.cases) it.effect(one.name, () => one.run)
    })

    if (!capabilities.transactions) return

    it.scoped("transactions: all or nothing, with the reason of each, safe to send again", () =>
      Effect.gen(function* () {
        const { dynamo, table } = yield* orders()
        const { transact } = table
        yield* table.put(order("ada", 1, { count: 1, address: { city: "Oslo" } }))
        yield* dynamo.transactWrite([
          transact.put(order("ada", 2)),
          transact.update({ customer: "ada", number: 1 }, (to) => [to.add("count", 1)]),
          transact.check({ customer: "ada", number: 3 }, (on) => on.notExists("customer")),
          transact.delete({ customer: "ada", number: 4 })
        ])
        const [one, two, three] = yield* dynamo.transactGet([
          transact.get({ customer: "ada", number: 1 }),
          transact.get({ customer: "ada", number: 2 }),
          transact.get({ customer: "ada", number: 3 })
        ])
        assert.deepStrictEqual(
          [Option.getOrThrow(one).count, Option.isSome(two), Option.isSome(three)],
          [2, true, false]
        )
        const error = yield* Effect.flip(
          dynamo.transactWrite([
            transact.put(order("ada", 5)),
            transact.update({ customer: "ada", number: 1 }, (to) => [to.add("count", 1)], {
              condition: (on) => on.eq("count", 99),
              returnOld: true
            })
          ])
        )
        assert.deepStrictEqual([error.reason, error.code], ["Conflict", "TransactionCanceledException"])
        assert.deepStrictEqual(
          DynamoDb.cancellationReasons(error).map(({ code, item }) => [
            code,
            Option.map(item, (item) => item["count"])
          ]),
          [
            ["None", Option.none()],
            ["ConditionalCheckFailed", Option.some(2)]
          ]
        )
        assert.notInclude(JSON.stringify(error), "Oslo")
        assert.deepStrictEqual(yield* table.get({ customer: "ada", number: 5 }), Option.none())
        // the same token is the same transaction
        const counting = [transact.update({ customer: "ada", number: 1 }, (to) => [to.add("count", 10)])]
        yield* dynamo.transactWrite(counting, { token: "once" })
        yield* dynamo.transactWrite(counting, { token: "once" })
        assert.strictEqual(
          Option.getOrThrow(yield* table.get({ customer: "ada", number: 1 }, { consistent: true })).count,
          12
        )
        const other = [transact.update({ customer: "ada", number: 1 }, (to) => [to.add("count", 11)])]
        assert.strictEqual(yield* reasonOf(dynamo.transactWrite(other, { token: "once" })), "InvalidRequest")
        assert.strictEqual(yield* reasonOf(dynamo.transactWrite([])), "InvalidRequest")
        assert.strictEqual(
          yield* reasonOf(
            dynamo.transactWrite(Array.from({ length: 101 }, (_, index) => transact.put(order("x", index))))
          ),
          "InvalidRequest"
        )
      })
    )

    it.scoped("a transaction whose answer is lost is sent again, and done once", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const { table } = yield* orders()
        yield* table.put(order("ada", 1, { count: 0 }))
        const proxy = yield* FaultProxy.make({ port: server.port })
        const watched = yield* DynamoDb.make({ ...fixed, endpoint: `http://127.0.0.1:${proxy.port}` }, "lossy")
        const same = watched.table({ name: table.name, schema: Order, partitionKey: "customer", sortKey: "number" })
        yield* proxy.resetAfter(0)
        yield* watched.transactWrite([
          same.transact.update({ customer: "ada", number: 1 }, (to) => [to.add("count", 1)])
        ])
        assert.strictEqual(
          Option.getOrThrow(yield* table.get({ customer: "ada", number: 1 }, { consistent: true })).count,
          1
        )
      })
    )

    it.scoped("PartiQL, page by page; the time to live of a table", () =>
      Effect.gen(function* () {
        const { dynamo, table } = yield* orders()
        yield* table.writeMany({ put: Array.from({ length: 5 }, (_, index) => order("ada", index)) })
        const rows = yield* run(
          dynamo.partiql(`SELECT number FROM "${table.name}" WHERE customer = ? AND number > ?`, ["ada", 2])
        )
        assert.deepStrictEqual(rows, [{ number: 3 }, { number: 4 }])
        const expiring = dynamo.table({
          name: `expiring-${process.pid}-${tables++}`,
          schema: Schema.Struct({ id: Schema.String, until: DynamoDb.EpochSeconds }),
          partitionKey: "id",
          timeToLive: "until"
        })
        yield* expiring.createTable()
        const output = yield* dynamo.request("DescribeTimeToLive", { TableName: expiring.name })
        assert.deepInclude(output["TimeToLiveDescription"], { AttributeName: "until", TimeToLiveStatus: "ENABLED" })
      })
    )
  })

behaviour("DynamoDb on dynalite", Layer.scoped(Server, DynaliteServer.make()), {
  transactions: false,
  itemOnFailure: false
})

describe.skipIf(Need.missing("dynamodb-local"))(Need.title("DynamoDb on DynamoDB Local", "dynamodb-local"), () => {
  behaviour("the same", Layer.scoped(Server, DynamoDbLocalServer.make()), { transactions: true, itemOnFailure: true })
})

interface Scripted {
  readonly endpoint: string
  readonly targets: Array<string>
  readonly bodies: Array<string>
  readonly traces: Array<string | undefined>
}

/** A service that answers by a script: what is the double's is what is asked of us, not what DynamoDB is. */
const scripted = (
  answer: (count: number, target: string, response: Http.ServerResponse, request: Http.IncomingMessage) => void
) =>
  Effect.acquireRelease(
    Effect.async<Scripted & { readonly server: Http.Server }>((resume) => {
      const targets: Array<string> = []
      const bodies: Array<string> = []
      const traces: Array<string | undefined> = []
      const server = Http.createServer((request, response) => {
        let body = ""
        request.on("data", (chunk) => {
          body += String(chunk)
        })
        request.on("end", () => {
          const target = String(request.headers["x-amz-target"]).replace("DynamoDB_20120810.", "")
          targets.push(target)
          bodies.push(body)
          traces.push(request.headersDistinct["traceparent"]?.[0])
          answer(targets.length, target, response, request)
        })
      })
      server.listen(0, "127.0.0.1", () => {
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        resume(Effect.succeed({ endpoint: `http://127.0.0.1:${port}`, targets, bodies, traces, server }))
      })
    }),
    ({ server }) =>
      Effect.sync(() => {
        server.closeAllConnections()
        server.close()
      })
  )

const answering = (response: Http.ServerResponse, status: number, body: unknown, sum = true) => {
  const text = JSON.stringify(body)
  response.writeHead(status, {
    "content-type": "application/x-amz-json-1.0",
    "x-amz-crc32": String(Zlib.crc32(text) + (sum ? 0 : 1))
  })
  response.end(text)
}

const Item = Schema.Struct({
  id: Schema.String,
  n: Schema.optional(Schema.Number),
  list: Schema.optional(Schema.Array(Schema.Number)),
  tags: Schema.optional(Schema.ReadonlySetFromSelf(Schema.String)),
  more: Schema.optional(Schema.ReadonlySetFromSelf(Schema.String))
})
const items = (dynamo: DynamoDb.Service) => dynamo.table({ name: "items", schema: Item, partitionKey: "id" })

describe("what is sent again, on the external plane", () => {
  const calls: ReadonlyArray<
    readonly [
      name: string,
      again: boolean,
      call: (dynamo: DynamoDb.Service) => Effect.Effect<unknown, Connection.ConnectionError>
    ]
  > = [
    ["get", true, (dynamo) => items(dynamo).get({ id: "a" })],
    ["query", true, (dynamo) => run(items(dynamo).query({ partition: "a" }))],
    ["put", true, (dynamo) => items(dynamo).put({ id: "a" })],
    ["put that gives the old item", false, (dynamo) => items(dynamo).put({ id: "a" }, { returnValues: "old" })],
    ["insert", false, (dynamo) => items(dynamo).insert({ id: "a" })],
    ["delete", true, (dynamo) => items(dynamo).delete({ id: "a" })],
    [
      "delete with a condition",
      false,
      (dynamo) => items(dynamo).delete({ id: "a" }, { condition: (on) => on.exists("n") })
    ],
    [
      "an update that sets",
      true,
      (dynamo) => items(dynamo).update({ id: "a" }, (to) => [to.set("n", 1), to.remove("list")])
    ],
    ["an update that adds", false, (dynamo) => items(dynamo).update({ id: "a" }, (to) => [to.add("n", 1)])],
    ["an update that counts", false, (dynamo) => items(dynamo).update({ id: "a" }, (to) => [to.increment("n", 1, 0)])],
    ["an update that appends", false, (dynamo) => items(dynamo).update({ id: "a" }, (to) => [to.append("list", [1])])],
    ["an update of an element", false, (dynamo) => items(dynamo).update({ id: "a" }, (to) => [to.remove("list[0]")])],
    [
      "an update that adds, as the caller says so",
      true,
      (dynamo) => items(dynamo).update({ id: "a" }, (to) => [to.add("n", 1)], { idempotent: true })
    ],
    [
      "an update that adds to a set and takes from one",
      true,
      (dynamo) =>
        items(dynamo).update({ id: "a" }, (to) => [
          to.add("tags", new Set(["a"])),
          to.deleteFrom("more", new Set(["b"]))
        ])
    ],
    ["a request for what only reads", true, (dynamo) => dynamo.request("DescribeTable", { TableName: "items" })],
    ["a request for anything else", false, (dynamo) => dynamo.request("DeleteTable", { TableName: "items" })],
    ["a batch that reads", true, (dynamo) => items(dynamo).getMany([{ id: "a" }])],
    ["a batch that writes", true, (dynamo) => items(dynamo).writeMany({ put: [{ id: "a" }], delete: [{ id: "b" }] })],
    [
      "a transaction",
      true,
      (dynamo) => dynamo.transactWrite([items(dynamo).transact.update({ id: "a" }, (to) => [to.add("n", 1)])])
    ]
  ]
  for (const [name, again, call] of calls) {
    it.scopedLive(
      `${name}: ${again ? "again" : "once"} when it fails in doubt; always when it was refused for now`,
      () =>
        Effect.gen(function* () {
          const doubtful = yield* scripted((count, target, response) => {
            if (target === "ListTables" || count > 2) answering(response, 200, {})
            else if (count === 1) response.destroy()
            else answering(response, 500, { __type: "InternalServerError" })
          })
          const dynamo = yield* DynamoDb.make({ ...fixed, endpoint: doubtful.endpoint, connect: "lazy" })
          if (again) {
            yield* call(dynamo)
            assert.strictEqual(doubtful.targets.length, 3)
            if (name === "a transaction") assert.strictEqual(new Set(doubtful.bodies).size, 1)
          } else {
            const error = yield* Effect.flip(call(dynamo))
            assert.deepStrictEqual([error.reason, error.sent, doubtful.targets.length], ["Unavailable", true, 1])
            assert.include(error.description, "may have been done")
          }
          const busy = yield* scripted((count, _, response) =>
            count === 1
              ? answering(response, 400, {
                  __type: "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"
                })
              : answering(response, 200, {})
          )
          const patient = yield* DynamoDb.make({ ...fixed, endpoint: busy.endpoint, connect: "lazy" }, "patient")
          yield* call(patient)
          assert.strictEqual(busy.targets.length, 2)
        })
    )
  }

  it.scopedLive("what was refused after an attempt in doubt is in doubt: it may have been done", () =>
    Effect.gen(function* () {
      for (const last of ["ThrottlingException", "TransactionInProgressException"]) {
        const doubtful = yield* scripted((count, _, response) =>
          count === 1 ? response.destroy() : answering(response, 400, { __type: last })
        )
        const dynamo = yield* DynamoDb.make({ ...fixed, endpoint: doubtful.endpoint, connect: "lazy", retries: 1 })
        const error = yield* Effect.flip(
          dynamo.transactWrite([items(dynamo).transact.update({ id: "a" }, (to) => [to.add("n", 1)])])
        )
        assert.deepStrictEqual([error.reason, doubtful.targets.length], ["Throttled", 2])
        assert.notStrictEqual(error.sent, false)
        assert.include(error.description, "may have been done")
      }
      // the token is known already, so somebody has sent it
      const running = yield* scripted((_, __, response) =>
        answering(response, 400, { __type: "TransactionInProgressException" })
      )
      const once = yield* DynamoDb.make({ ...fixed, endpoint: running.endpoint, connect: "lazy", plane: "internal" })
      const error = yield* Effect.flip(
        once.transactWrite([items(once).transact.put({ id: "a" })], { token: "the same" })
      )
      assert.strictEqual(error.reason, "Throttled")
      assert.notStrictEqual(error.sent, false)
    })
  )

  it.scopedLive("internal: nothing is sent again, and what was refused says so", () =>
    Effect.gen(function* () {
      const busy = yield* scripted((_, __, response) =>
        answering(response, 400, { __type: "ThrottlingException", message: "slow down" })
      )
      const dynamo = yield* DynamoDb.make({ ...fixed, endpoint: busy.endpoint, connect: "lazy", plane: "internal" })
      const error = yield* Effect.flip(items(dynamo).get({ id: "a" }))
      assert.deepStrictEqual(
        [error.reason, error.sent, error.isRetryable, busy.targets.length],
        ["Throttled", false, true, 1]
      )
    })
  )
})

describe("traceparent", () => {
  it.scopedLive("on the external plane it is that of the call, on the internal one there is none", () =>
    Effect.gen(function* () {
      const { endpoint, traces } = yield* scripted((_, __, response) => answering(response, 200, {}))
      const recording = yield* Recording.make
      const once = (plane: "external" | "internal", name: string) =>
        Effect.flatMap(DynamoDb.make({ ...fixed, endpoint, connect: "lazy", plane }, name), (dynamo) =>
          recording.within(Effect.withSpan(items(dynamo).get({ id: "a" }), "around"))
        )
      yield* once("external", "watched")
      const called = (yield* recording.spans).find(({ name }) => name === "DynamoDB.GetItem")
      assert.deepStrictEqual(traces, [`00-${called?.traceId}-${called?.spanId}-01`])
      yield* once("internal", "unwatched")
      assert.deepStrictEqual(traces[1], undefined)
      yield* Effect.withTracerEnabled(once("external", "disabled"), false)
      assert.deepStrictEqual(traces[2], undefined)
    })
  )
})

describe("what the service says", () => {
  const one = (status: number, body: unknown, sum = true) =>
    Effect.gen(function* () {
      const { endpoint } = yield* scripted((_, __, response) => answering(response, status, body, sum))
      const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "lazy", plane: "internal" })
      return yield* Effect.flip(items(dynamo).get({ id: "a" }))
    })

  const errors: ReadonlyArray<readonly [string, number, Connection.ConnectionErrorReason]> = [
    ["ConditionalCheckFailedException", 400, "Conflict"],
    ["TransactionConflictException", 400, "Conflict"],
    ["TransactionInProgressException", 400, "Throttled"],
    ["IdempotentParameterMismatchException", 400, "InvalidRequest"],
    ["RequestLimitExceeded", 400, "Throttled"],
    ["LimitExceededException", 400, "Throttled"],
    ["ResourceNotFoundException", 400, "NotFound"],
    ["ResourceInUseException", 400, "Conflict"],
    ["ItemCollectionSizeLimitExceededException", 400, "InvalidRequest"],
    ["ValidationException", 400, "InvalidRequest"],
    ["AccessDeniedException", 400, "PermissionDenied"],
    ["UnrecognizedClientException", 400, "Authentication"],
    ["InvalidSignatureException", 400, "Authentication"],
    ["ExpiredTokenException", 400, "Authentication"],
    ["UnknownOperationException", 400, "Unsupported"],
    ["InternalServerError", 500, "Unavailable"],
    ["ServiceUnavailable", 503, "Unavailable"],
    ["SomethingNew", 400, "InvalidRequest"],
    ["SomethingNew", 503, "Unavailable"]
  ]
  it.scopedLive("each of its errors has its reason, whatever namespace it comes with", () =>
    Effect.gen(function* () {
      for (const [type, status, reason] of errors) {
        for (const prefix of ["", "com.amazonaws.dynamodb.v20120810#", "com.amazon.coral.validate#"]) {
          const error = yield* one(status, { __type: prefix + type, message: "s3cret words" })
          assert.deepStrictEqual([error.reason, error.code], [reason, type])
          assert.notInclude(error.message, "s3cret")
        }
      }
    })
  )

  it.scopedLive("credentials that may not list tables keep no connection from serving; wrong ones do", () =>
    Effect.gen(function* () {
      const refusing = (type: string) => scripted((_, __, response) => answering(response, 400, { __type: type }))
      for (const type of ["AccessDeniedException", "ThrottlingException"]) {
        const { endpoint, targets } = yield* refusing(type)
        const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "eager", plane: "internal" })
        assert.strictEqual((yield* dynamo.connection.health).status, "up", type)
        assert.deepStrictEqual(new Set(targets), new Set(["ListTables"]))
      }
      const { endpoint } = yield* refusing("UnrecognizedClientException")
      const wrong = yield* Effect.flip(DynamoDb.make({ ...fixed, endpoint, connect: "eager", plane: "internal" }))
      assert.strictEqual(wrong.reason, "Authentication")
    })
  )

  it.scopedLive("the words about a signature, which repeat the session's token, are kept nowhere", () =>
    Effect.gen(function* () {
      for (const type of ["InvalidSignatureException", "IncompleteSignatureException", "SignatureDoesNotMatch"]) {
        const error = yield* one(type === "SignatureDoesNotMatch" ? 403 : 400, {
          __type: type,
          message: "The Canonical String should have been 'POST\n/\n\nx-amz-security-token:s3cret-token'"
        })
        assert.strictEqual(error.code, type)
        assert.notInclude(`${String(error.cause)}${JSON.stringify(error)}${error.message}`, "s3cret-token")
      }
      const told = yield* one(400, { __type: "ValidationException", message: "what is wrong" })
      assert.include(String(told.original), "what is wrong")
    })
  )

  it.scopedLive("transactions that are cancelled: what the caller must change goes before what passes", () =>
    Effect.gen(function* () {
      const cases: ReadonlyArray<
        readonly [ReadonlyArray<string>, Connection.ConnectionErrorReason, boolean | undefined]
      > = [
        [["None", "ConditionalCheckFailed", "ThrottlingError"], "Conflict", undefined],
        [["ValidationError", "ConditionalCheckFailed"], "InvalidRequest", undefined],
        [["None", "TransactionConflict"], "Conflict", undefined],
        [["ProvisionedThroughputExceeded", "None"], "Throttled", false]
      ]
      for (const [codes, reason, sent] of cases) {
        const error = yield* one(400, {
          __type: "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
          CancellationReasons: codes.map((Code) => ({ Code }))
        })
        assert.deepStrictEqual([error.reason, error.sent], [reason, sent])
        assert.deepStrictEqual(
          DynamoDb.cancellationReasons(error).map(({ code }) => code),
          codes
        )
      }
    })
  )

  it.scopedLive("an answer that is damaged is noticed by its checksum", () =>
    Effect.gen(function* () {
      const error = yield* one(200, { Item: { id: { S: "another" } } }, false)
      assert.strictEqual(error.reason, "Unavailable")
      assert.include(error.description, "checksum")
      const html = yield* scripted((_, __, response) => response.end("<html>"))
      const dynamo = yield* DynamoDb.make({ ...fixed, endpoint: html.endpoint, connect: "lazy", plane: "internal" })
      assert.strictEqual(yield* reasonOf(items(dynamo).get({ id: "a" })), "Unknown")
    })
  )

  it.scopedLive("pages that go round in circles end, typed", () =>
    Effect.gen(function* () {
      const { endpoint, targets } = yield* scripted((count, _, response) =>
        answering(response, 200, {
          Items: [{ id: { S: String(count) } }],
          LastEvaluatedKey: { id: { S: `place ${count % 3}` } }
        })
      )
      const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "lazy", plane: "internal" })
      assert.strictEqual(yield* reasonOf(run(items(dynamo).scan())), "Unknown")
      assert.isAtMost(targets.length, 5)
    })
  )

  it.scopedLive("pages of PartiQL that go round in circles end, typed, however long the circle is", () =>
    Effect.gen(function* () {
      const { endpoint, targets } = yield* scripted((count, _, response) =>
        answering(response, 200, { Items: [{ id: { S: String(count) } }], NextToken: `place ${count % 3}` })
      )
      const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "lazy", plane: "internal" })
      const pages = dynamo.partiql("SELECT * FROM items").pipe(Stream.take(50), Stream.runDrain)
      assert.strictEqual(yield* reasonOf(pages), "Unknown")
      assert.isAtMost(targets.length, 5)
    })
  )

  /** A service whose clock is an hour ahead of this machine's. */
  const hourAhead = Effect.gen(function* () {
    const refused: Array<string> = []
    const { endpoint, targets } = yield* scripted((_, target, response, request) => {
      const now = Date.now() + 3_600_000
      const date = String(request.headers["x-amz-date"]).replace(/^(....)(..)(..)T(..)(..)(..)Z$/, "$1-$2-$3T$4:$5:$6Z")
      response.setHeader("date", new Date(now).toUTCString())
      if (Math.abs(Date.parse(date) - now) < 300_000) return answering(response, 200, {})
      refused.push(target)
      answering(response, 400, { __type: "com.amazon.coral.service#InvalidSignatureException" })
    })
    return { endpoint, refused, targets }
  })

  for (const plane of ["internal", "external"] as const) {
    it.scopedLive(`${plane}: a clock that is wrong does not keep an eager connection from being made`, () =>
      Effect.gen(function* () {
        const { endpoint, refused } = yield* hourAhead
        const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "eager", plane })
        assert.strictEqual((yield* dynamo.connection.health).status, "up")
        assert.isTrue(Option.isNone(yield* items(dynamo).get({ id: "a" })))
        assert.strictEqual(refused.length, 1)
      })
    )

    it.scopedLive(`${plane}: a clock that is wrong is told of, and corrected by the service's`, () =>
      Effect.gen(function* () {
        const { endpoint, refused, targets } = yield* hourAhead
        const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "lazy", plane })
        const get = items(dynamo).get({ id: "a" })
        if (plane === "internal") {
          const error = yield* Effect.flip(get)
          assert.strictEqual("reason" in error ? error.reason : undefined, "Unavailable")
          assert.strictEqual("sent" in error ? error.sent : undefined, false)
          assert.include(error.message, "clock")
        }
        assert.isTrue(Option.isNone(yield* get))
        assert.isTrue(Option.isNone(yield* get))
        assert.strictEqual(refused.length, 1)
        assert.strictEqual(targets.length, 3)
      })
    )
  }

  it.scopedLive("a signature that is refused with a clock that is right is the credentials' fault", () =>
    Effect.gen(function* () {
      const { endpoint, targets } = yield* scripted((_, __, response) =>
        answering(response, 400, { __type: "InvalidSignatureException" })
      )
      const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "lazy", plane: "external" })
      assert.strictEqual(yield* reasonOf(items(dynamo).get({ id: "a" })), "Authentication")
      assert.strictEqual(targets.length, 1)
    })
  )

  it.scopedLive("batches: what is left is sent again with pauses, and what is left in the end is given", () =>
    Effect.gen(function* () {
      const sizes: Array<number> = []
      const generous = yield* scripted((_, __, response) => answering(response, 200, {}))
      assert.deepStrictEqual(generous.targets, [])
      const { bodies, endpoint } = yield* scripted((count, target, response) => {
        const asked = JSON.parse(bodies[count - 1] ?? "{}").RequestItems.items
        if (target === "BatchWriteItem") {
          sizes.push(asked.length)
          answering(response, 200, { UnprocessedItems: asked.length > 1 ? { items: asked.slice(1) } : {} })
        } else {
          const [first, ...rest] = asked.Keys
          answering(response, 200, {
            Responses: { items: [first] },
            UnprocessedKeys: rest.length > 0 ? { items: { Keys: rest } } : {}
          })
        }
      })
      const dynamo = yield* DynamoDb.make({ ...fixed, endpoint, connect: "lazy", plane: "internal" })
      const left = yield* items(dynamo).writeMany({ put: [{ id: "a" }, { id: "b" }], delete: [{ id: "c" }] })
      assert.deepStrictEqual([left, sizes], [{ put: [], delete: [] }, [3, 2, 1]])
      const found = yield* items(dynamo).getMany([{ id: "a" }, { id: "b" }, { id: "a" }])
      assert.deepStrictEqual(found, {
        items: [Option.some({ id: "a" }), Option.some({ id: "b" }), Option.some({ id: "a" })],
        left: []
      })
    })
  )
})

it.effect("what is left of a batch is found again by its number", () =>
  Effect.gen(function* () {
    const { makeService } = yield* Effect.promise(() => import("../../src/internal/dynamo/table.ts"))
    const { TestClock } = yield* Effect.promise(() => import("effect"))
    const sent: Array<unknown> = []
    const service = makeService(
      (_, input) =>
        Effect.sync(() => {
          sent.push(input["RequestItems"])
          return sent.length > 1
            ? {}
            : { UnprocessedItems: { sums: [{ PutRequest: { Item: { sum: { N: "1.1" } } } }] } }
        }),
      "test"
    )
    const table = service.table({
      name: "sums",
      schema: Schema.Struct({ sum: DynamoDb.Decimal }),
      partitionKey: "sum"
    })
    const fiber = yield* Effect.fork(table.writeMany({ put: [{ sum: "1.10" }, { sum: "2" }] }))
    yield* TestClock.adjust("1 minute")
    assert.deepStrictEqual(yield* Fiber.join(fiber), { put: [], delete: [] })
    assert.deepStrictEqual(sent[1], { sums: [{ PutRequest: { Item: { sum: { N: "1.10" } } } }] })
  })
)

it.effect("batches that are never done end, with what is left", () =>
  Effect.gen(function* () {
    const { makeService } = yield* Effect.promise(() => import("../../src/internal/dynamo/table.ts"))
    let calls = 0
    const service = makeService(
      (_, input) =>
        Effect.sync(() => {
          calls++
          return { UnprocessedItems: input["RequestItems"] }
        }),
      "test"
    )
    const table = service.table({ name: "items", schema: Item, partitionKey: "id" })
    const fiber = yield* Effect.fork(table.writeMany({ put: [{ id: "a" }], delete: [{ id: "b" }] }))
    const { TestClock } = yield* Effect.promise(() => import("effect"))
    yield* TestClock.adjust("10 minutes")
    assert.deepStrictEqual(yield* Fiber.join(fiber), { put: [{ id: "a" }], delete: [{ id: "b" }] })
    assert.strictEqual(calls, 11, "once, and ten rounds that brought nothing")
  })
)

describe("a connection", () => {
  it.scopedLive("health answers in its time: blackhole, half-open, slow drip, reset, TLS that stalls", () =>
    Effect.gen(function* () {
      const others: ReadonlyArray<readonly [string, (socket: Net.Socket) => void]> = [
        ["blackhole", () => {}],
        ["half-open", (socket) => socket.on("data", () => socket.end())],
        [
          "slow drip",
          (socket) => {
            const timer = setInterval(() => socket.write("H"), 100)
            socket.on("close", () => clearInterval(timer))
          }
        ],
        ["reset", (socket) => socket.resetAndDestroy()],
        ["a TLS that stalls", () => {}]
      ]
      for (const [what, behaviour] of others) {
        const sockets = new Set<Net.Socket>()
        const server = yield* Effect.acquireRelease(
          Effect.async<Net.Server>((resume) => {
            const server = Net.createServer((socket) => {
              sockets.add(socket)
              socket.on("error", () => {})
              socket.on("close", () => sockets.delete(socket))
              socket.resume()
              behaviour(socket)
            })
            server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
          }),
          (server) => Effect.sync(() => server.close())
        )
        const address = server.address()
        const port = typeof address === "object" && address !== null ? address.port : 0
        const scheme = what.includes("TLS") ? "https" : "http"
        const scope = yield* Scope.make()
        const dynamo = yield* Scope.extend(
          DynamoDb.make(
            { ...fixed, endpoint: `${scheme}://127.0.0.1:${port}`, connect: "lazy", healthTimeout: "400 millis" },
            what
          ),
          scope
        )
        const [health, took] = yield* Timed.timed(dynamo.connection.health)
        assert.strictEqual(health.status, "down", what)
        assert.isBelow(took, 450, what)
        yield* Scope.close(scope, Exit.void)
        yield* eventually(
          `${what}: no socket is left`,
          Effect.sync(() => sockets.size),
          (size) => size === 0
        )
      }
    })
  )

  it.scopedLive(
    "a server that is frozen: every call ends within its time, typed; one that is not there fails at once",
    () =>
      Effect.gen(function* () {
        const server = yield* DynaliteServer.make()
        const dynamo = yield* DynamoDb.make({
          ...fixed,
          endpoint: server.endpoint,
          timeout: "300 millis",
          plane: "internal"
        })
        yield* server.freeze
        const [error, took] = yield* Timed.timed(
          Effect.flip(items(dynamo).update({ id: "a" }, (to) => [to.add("n", 1)]))
        )
        assert.deepStrictEqual([error.reason, error.sent], ["Timeout", true])
        assert.include(error.description, "may have been done")
        assert.isBelow(took, 800)
        yield* server.thaw
        yield* server.kill
        const gone = yield* Effect.flip(DynamoDb.make({ ...fixed, endpoint: server.endpoint }, "gone"))
        assert.deepStrictEqual([gone.reason, gone.code], ["Unavailable", "ECONNREFUSED"])
        yield* server.start
        yield* eventually("back", Effect.either(dynamo.request("ListTables", {})), (result) => result._tag === "Right")
      })
  )

  it.scopedLive("settings that cannot be, and a kind of the registry from configuration", () =>
    Effect.gen(function* () {
      const invalid = yield* Effect.flip(DynamoDb.make({ ...fixed, endpoint: "not a url" }))
      assert.strictEqual(invalid.reason, "InvalidSettings")
      for (const endpoint of ["ftp://127.0.0.1", "http://user:s3cret@127.0.0.1:1"]) {
        const refused = yield* Effect.flip(DynamoDb.make({ ...fixed, endpoint }))
        assert.strictEqual(refused.reason, "InvalidSettings")
        assert.notInclude(`${refused.message}${String(refused.cause)}`, "s3cret")
      }
      const server = yield* DynaliteServer.make()
      yield* Effect.gen(function* () {
        const connections = yield* Connections.make([DynamoDb.kind])
        const connection = yield* connections.get(DynamoDb.kind, "orders")
        assert.deepStrictEqual(yield* connection.use((client) => client.request("ListTables", {})), { TableNames: [] })
        assert.deepStrictEqual(
          (yield* connections.health).map(({ kind, name, status }) => [kind, name, status]),
          [["dynamodb", "orders", "up"]]
        )
      }).pipe(
        Effect.withConfigProvider(
          ConfigProvider.fromMap(
            new Map([
              ["connections.orders.region", "eu-central-1"],
              ["connections.orders.endpoint", server.endpoint],
              ["connections.orders.accessKeyId", "test"],
              ["connections.orders.secretAccessKey", "test"]
            ])
          )
        )
      )
      const error = yield* Effect.flip(
        Effect.scoped(Layer.build(DynamoDb.layerConfig())).pipe(
          Effect.withConfigProvider(
            ConfigProvider.fromMap(
              new Map([
                ["dynamodb.plane", "astral"],
                ["dynamodb.timeout", "soon"],
                ["dynamodb.endpoint", "nowhere"]
              ])
            )
          )
        )
      )
      for (const field of ["plane", "timeout", "endpoint"]) assert.include(String(error), field)
    })
  )
})
