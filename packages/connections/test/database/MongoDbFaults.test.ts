import * as Fs from "node:fs"
import { assert, describe, it, layer } from "@effect/vitest"
import { Connections } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as MongoWireServer from "@underlay/servers/MongoWireServer"
import {
  ConfigProvider,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Option,
  Redacted,
  Schedule,
  Scope,
  Stream
} from "effect"
import { MongoClient } from "mongodb"
import * as MongoDb from "../../src/database/MongoDb.ts"
import { connect, double, eventually, fresh, reasonOf, Server, settingsOf } from "./mongoTest.ts"

/** A connection through a proxy of its own. */
const through = Effect.fnUntraced(function* (more: Partial<MongoDb.MongoDbSettings> = {}) {
  const server = yield* Server
  const proxy = yield* FaultProxy.make({ port: server.port })
  const url = `mongodb://${proxy.host}:${proxy.port}/?directConnection=true`
  const db = yield* MongoDb.make(settingsOf(url, { connectTimeout: "1 second", ...more }))
  return { proxy, db, url }
})

const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const from = performance.now()
    return Effect.map(effect, (value) => ({ value, took: performance.now() - from }))
  })

/** How many sockets of this machine are connected to the port, by the kernel's own list. */
const establishedTo = (port: number): number => {
  const wanted = port.toString(16).toUpperCase().padStart(4, "0")
  return Fs.readFileSync("/proc/net/tcp", "utf8")
    .split("\n")
    .filter((line) => {
      const [, , remote = "", state] = line.trim().split(/\s+/)
      return remote.endsWith(`:${wanted}`) && state === "01"
    }).length
}

describe("MongoDb when things go wrong", () => {
  layer(double(), { excludeTestServices: true })((it) => {
    it.scoped("a write that was lost on its way is sent once more by the driver and done once", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const users = fresh(yield* connect())
        yield* server.fail({ commands: ["insert"], reset: true, after: true })
        yield* users.insertOne({ name: "ann", age: 1 })
        yield* server.fail({ commands: ["update"], reset: true, after: true })
        yield* users.updateOne({}, { $inc: { age: 1 } })
        assert.strictEqual((yield* users.findAll({}))[0]?.age, 2)
        assert.strictEqual(yield* users.countDocuments(), 1)
      })
    )

    it.scoped(
      "a write that was lost, and whose repetition finds no server, is not taken for one that was never sent",
      () =>
        Effect.gen(function* () {
          const server = yield* MongoWireServer.make()
          const db = yield* MongoDb.make(settingsOf(server.url, { plane: "external", connectTimeout: "600 millis" }))
          const users = fresh(db)
          yield* users.insertOne({ name: "ann", age: 0 })
          const before = (yield* server.counts).commands["update"] ?? 0
          // it is done, its answer is lost, and then nobody can be asked
          yield* server.fail({ commands: ["hello", "ismaster"], reset: true, times: 1_000_000 })
          yield* server.fail({ commands: ["update"], reset: true, after: true })
          const fiber = yield* Effect.fork(Effect.flip(users.updateOne({ name: "ann" }, { $inc: { age: 1 } })))
          yield* eventually(
            "it was done",
            Effect.map(server.counts, ({ commands }) => (commands["update"] ?? 0) > before)
          )
          // longer than the driver looks for a server
          yield* Effect.sleep(700)
          yield* server.calm
          const error = yield* Fiber.join(fiber)
          assert.strictEqual(reasonOf(error), "Unavailable")
          assert.isFalse("sent" in error && error.sent === false)
          const same = db.collection(users.name)
          const stored = yield* Effect.retry(same.findOne({}), { times: 20, schedule: Schedule.spaced("100 millis") })
          assert.strictEqual(Option.getOrThrow(stored)["age"], 1)
        })
    )

    it.scoped("a limit that is infinite, or longer than a timer can be, is none", () =>
      Effect.gen(function* () {
        const users = fresh(yield* connect({ operationTimeout: Duration.infinity, endTimeout: "60 days" }))
        yield* users.insertOne({ name: "ann", age: 1 })
        assert.strictEqual((yield* users.findAll({}, { timeout: Duration.infinity })).length, 1)
        assert.strictEqual(yield* users.countDocuments({}, { timeout: "60 days" }), 1)
        assert.strictEqual(yield* Stream.runCount(users.find({})), 1)
      })
    )

    it.scoped("who waits while a change stream holds the socket is counted as waiting", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect({ maxConnections: 1 })
        const users = fresh(db)
        yield* users.estimatedCount
        yield* server.fail({ commands: ["getMore"], delayMillis: 1_500 })
        const asked = Effect.map(server.counts, ({ commands }) => commands["getMore"] ?? 0)
        const before = yield* asked
        yield* Effect.forkScoped(Effect.ignore(Stream.runDrain(users.watch())))
        yield* eventually(
          "it waits for changes",
          Effect.map(asked, (count) => count > before)
        )
        const waiter = yield* Effect.fork(users.countDocuments())
        yield* eventually(
          "one waits",
          Effect.map(db.stats, ({ inUse, waiting }) => inUse === 1 && waiting === 1)
        )
        yield* Fiber.join(waiter)
      })
    )

    it.scoped("without retryWrites a lost write is Unavailable and nothing is sent twice", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const users = fresh(yield* connect({ retryWrites: false }))
        const before = (yield* server.counts).commands["insert"] ?? 0
        yield* server.fail({ commands: ["insert"], reset: true, after: true })
        const error = yield* Effect.flip(users.insertOne({ name: "ann", age: 1 }))
        assert.strictEqual(reasonOf(error), "Unavailable")
        assert.strictEqual(((yield* server.counts).commands["insert"] ?? 0) - before, 1)
        const many = [1, 2].map((age) => ({ name: "bob", age }))
        yield* server.fail({ commands: ["insert"], reset: true, after: true })
        assert.strictEqual(reasonOf(yield* Effect.flip(users.insertMany(many))), "Unavailable")
        assert.strictEqual(((yield* server.counts).commands["insert"] ?? 0) - before, 2)
      })
    )

    it.scoped("codes of the server become reasons", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const users = fresh(yield* connect({ retryReads: false, retryWrites: false }))
        for (const [code, reason, isRetryable] of [
          [13, "PermissionDenied", false],
          [18, "Authentication", false],
          [26, "NotFound", false],
          // a name that is taken stays taken
          [48, "ConstraintViolation", false],
          [50, "Timeout", true],
          [112, "Conflict", true],
          [121, "ConstraintViolation", false],
          [189, "Unavailable", true],
          [10107, "Unavailable", true],
          [11000, "ConstraintViolation", false],
          [11600, "Unavailable", true],
          [13435, "Unavailable", true],
          [59, "Unsupported", false],
          [9, "InvalidRequest", false],
          [77_777, "Unknown", false]
        ] as const) {
          yield* server.fail({ commands: ["distinct"], code, message: "hush-hush" })
          const error = yield* Effect.flip(users.distinct("age", MongoDb.Long))
          assert.strictEqual(reasonOf(error), reason, `code ${code}`)
          assert.strictEqual(error.isRetryable, isRetryable, `code ${code}`)
          assert.strictEqual("code" in error ? error.code : undefined, String(code))
          assert.notInclude(error.message, "hush-hush")
          // a server that says that it is not the primary is looked for anew
          yield* eventually("it is there again", Effect.map(Effect.exit(users.estimatedCount), Exit.isSuccess))
        }
        yield* server.fail({ commands: ["insert"], code: 462, labels: ["SystemOverloadedError", "RetryableError"] })
        assert.strictEqual(reasonOf(yield* Effect.flip(users.insertOne({ name: "a", age: 1 }))), "Throttled")
        const db = yield* connect()
        assert.strictEqual(reasonOf(yield* Effect.flip(db.command({ noSuchCommand: 1 }))), "Unsupported")
      })
    )

    it.scoped(
      "a slow operation ends with Timeout: reads on the server by maxTimeMS, all of them by our own limit",
      () =>
        Effect.gen(function* () {
          const server = yield* Server
          const db = yield* connect({ operationTimeout: "1 second" })
          const users = fresh(db)
          yield* users.insertOne({ name: "ann", age: 1 })
          const connections = (yield* server.counts).connections
          yield* server.fail({ commands: ["find", "aggregate", "count"], delayMillis: 30_000, times: 3 })
          const reads: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
            users.findAll({}),
            users.countDocuments(),
            users.estimatedCount
          ]
          for (const read of reads) {
            const { took, value } = yield* timed(Effect.flip(read))
            assert.strictEqual(reasonOf(value), "Timeout")
            assert.strictEqual(Reflect.get(Object(value), "code"), "50")
            assert.isBelow(took, 1_500)
          }
          // the server ended them, so the sockets are kept
          assert.strictEqual((yield* server.counts).connections, connections)
          yield* server.fail({ commands: ["insert"], delayMillis: 30_000 })
          const { took, value } = yield* timed(Effect.flip(users.insertOne({ name: "bob", age: 1 })))
          assert.strictEqual(reasonOf(value), "Timeout")
          assert.include(value.message, "not known")
          assert.isBelow(took, 1_500)
          assert.strictEqual(yield* users.countDocuments(), 1)
        })
    )

    it.scoped("a server that says nothing: operations, streams and health end in time, and no socket is left", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const scope = yield* Scope.make()
        const { db, proxy } = yield* Scope.extend(
          through({ operationTimeout: "1 second", healthTimeout: "200 millis", drainTimeout: "300 millis" }),
          scope
        )
        const users = fresh(db)
        yield* users.insertMany(Array.from({ length: 50 }, (_, age) => ({ name: "u", age })))
        assert.strictEqual((yield* db.health).status, "up")
        const begun = yield* Deferred.make<void>()
        const stream = yield* Effect.fork(
          Effect.flip(
            Stream.runForEach(users.find({}, { batchSize: 2 }), () =>
              Effect.zipRight(Deferred.succeed(begun, undefined), Effect.sleep(20))
            )
          )
        )
        yield* Effect.raceFirst(Deferred.await(begun), Fiber.join(stream))
        yield* proxy.blackhole(true)
        const health = yield* timed(db.health)
        assert.strictEqual(health.value.status, "down")
        assert.isBelow(health.took, 250 + 50)
        const insert = yield* timed(Effect.flip(users.insertOne({ name: "x", age: 1 })))
        assert.strictEqual(reasonOf(insert.value), "Timeout")
        assert.isBelow(insert.took, 1_500)
        assert.strictEqual(reasonOf(yield* Fiber.join(stream)), "Timeout")
        const interrupted = yield* Effect.fork(users.findAll({}))
        yield* Effect.sleep(20)
        assert.isBelow((yield* timed(Fiber.interrupt(interrupted))).took, 100)
        const transaction = yield* timed(Effect.flip(db.transaction(users.insertOne({ name: "y", age: 1 }))))
        assert.strictEqual(reasonOf(transaction.value), "Timeout")
        const release = yield* timed(Scope.close(scope, Exit.void))
        assert.isBelow(release.took, 4_000)
        // although the server still says nothing, and its farewell is not answered
        yield* eventually(
          "no socket is left",
          Effect.sync(() => establishedTo(proxy.port) === 0)
        )
        yield* proxy.calm
        yield* eventually(
          "no socket, cursor or transaction is left",
          Effect.map(server.counts, ({ transactions }) => transactions === 0)
        )
        assert.strictEqual((yield* proxy.counts).open, 0)
      })
    )

    it.scoped("released just when the server falls silent: its farewell is not answered, and no socket is left", () =>
      Effect.gen(function* () {
        const scope = yield* Scope.make()
        const { db, proxy } = yield* Scope.extend(through({ drainTimeout: "300 millis" }), scope)
        yield* fresh(db).countDocuments()
        yield* proxy.blackhole(true)
        assert.isBelow((yield* timed(Scope.close(scope, Exit.void))).took, 2_000)
        yield* eventually(
          "no socket is left",
          Effect.sync(() => establishedTo(proxy.port) === 0)
        )
      })
    )

    it.scoped("a server that takes no connections is Unavailable, not overloaded", () =>
      Effect.gen(function* () {
        const { db, proxy } = yield* through({ retryReads: false, retryWrites: false })
        const users = fresh(db)
        yield* users.insertOne({ name: "ann", age: 1 })
        yield* proxy.refuse(true)
        yield* proxy.resetAll
        yield* eventually(
          "the sockets are gone",
          Effect.map(db.stats, ({ total }) => total === 0)
        )
        for (const asked of [users.countDocuments(), Effect.asVoid(users.insertOne({ name: "bob", age: 1 }))]) {
          const error = yield* Effect.flip(asked)
          assert.strictEqual(reasonOf(error), "Unavailable", String("cause" in error ? error.cause : error))
        }
      })
    )

    it.scoped(
      "released while the server says nothing: whatever is under way fails, also what cannot be interrupted",
      () =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const { db, proxy } = yield* Scope.extend(through({ drainTimeout: "300 millis" }), scope)
          const users = fresh(db)
          yield* users.insertMany(Array.from({ length: 10 }, (_, age) => ({ name: "u", age })))
          yield* proxy.blackhole(true)
          const asked: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
            users.findOne({}),
            users.findAll({}),
            Stream.runDrain(users.find({}, { batchSize: 2 })),
            users.insertOne({ name: "x", age: 1 }),
            users.listIndexes,
            Stream.runDrain(users.watch()),
            db.command({ ping: 1 }),
            db.capabilities,
            db.attempt("never", () => new Promise(() => {})),
            // the second waits for the first
            db.transaction(
              Effect.all([users.updateMany({}, { $inc: { age: 1 } }), users.countDocuments()], { concurrency: 2 })
            ),
            db.use((it) => it.command({ ping: 1 }))
          ]
          const fibers = yield* Effect.forEach(asked, (one) =>
            Effect.forkDaemon(Effect.uninterruptible(Effect.flip(one)))
          )
          yield* eventually(
            "all of them are under way",
            Effect.map(db.stats, ({ inUse, waiting }) => inUse + waiting >= asked.length)
          )
          assert.isBelow((yield* timed(Scope.close(scope, Exit.void))).took, 3_000)
          for (const [index, fiber] of fibers.entries()) {
            const error = yield* Effect.timeout(Fiber.join(fiber), "1 second")
            assert.strictEqual(reasonOf(error), "Closed", `${index}`)
          }
          yield* eventually(
            "no socket is left",
            Effect.sync(() => establishedTo(proxy.port) === 0)
          )
        })
    )

    it.scoped("sockets are reset in the middle of everything, six times: typed errors only, and it works on", () =>
      Effect.gen(function* () {
        const { db, proxy } = yield* through()
        const users = fresh(db)
        yield* users.insertMany(Array.from({ length: 100 }, (_, age) => ({ name: "u", age })))
        const each: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
          users.findAll({}, { batchSize: 10 }),
          users.updateMany({}, { $inc: { age: 1 } }),
          users.countDocuments(),
          Stream.runDrain(users.find({}, { batchSize: 10 })),
          db.transaction(users.insertOne({ name: "t", age: 1 }), { retries: 2 }),
          users.insertMany([{ name: "m", age: 1 }])
        ]
        const work = Effect.all(each.map(Effect.exit), { concurrency: "unbounded" })
        let failed = 0
        for (let round = 0; round < 6; round++) {
          const fiber = yield* Effect.fork(work)
          yield* round % 2 === 0
            ? proxy.resetAfter(round * 13)
            : Effect.zipRight(Effect.sleep(round % 5), proxy.resetAll)
          for (const exit of yield* Fiber.join(fiber)) {
            if (Exit.isSuccess(exit)) continue
            failed++
            assert.isTrue(exit.cause._tag === "Fail", String(exit.cause))
          }
        }
        assert.isAbove(failed, 0)
        yield* proxy.calm
        yield* eventually("it works on", Effect.map(Effect.exit(users.countDocuments()), Exit.isSuccess))
        yield* eventually(
          "nothing is in use",
          Effect.map(db.stats, ({ inUse, waiting }) => inUse === 0 && waiting === 0)
        )
      })
    )

    it.scoped("the server is killed and comes back", () =>
      Effect.gen(function* () {
        const server = yield* MongoWireServer.make()
        const db = yield* MongoDb.make(settingsOf(server.url, { connectTimeout: "1 second" }))
        const users = fresh(db)
        yield* users.insertOne({ name: "ann", age: 1 })
        yield* server.kill
        const error = yield* Effect.flip(users.findAll({}))
        assert.strictEqual(reasonOf(error), "Unavailable", String("cause" in error ? error.cause : error))
        assert.strictEqual((yield* db.health).status, "down")
        yield* server.start
        yield* eventually("it works again", Effect.map(Effect.exit(users.findAll({})), Exit.isSuccess))
        assert.strictEqual(yield* users.countDocuments(), 1)
      })
    )

    it.scoped("all sockets are in use: who waits too long is Throttled, who is interrupted waits no more", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const db = yield* connect({ maxConnections: 1, acquireTimeout: "200 millis" })
        const users = fresh(db)
        yield* users.estimatedCount
        yield* server.fail({ commands: ["insert"], delayMillis: 1_000 })
        const slow = yield* Effect.fork(users.insertOne({ name: "ann", age: 1 }))
        yield* eventually(
          "it is in use",
          Effect.map(db.stats, ({ inUse }) => inUse === 1)
        )
        const waiter = yield* Effect.fork(users.countDocuments())
        yield* eventually(
          "one waits",
          Effect.map(db.stats, ({ waiting }) => waiting === 1)
        )
        assert.isBelow((yield* timed(Fiber.interrupt(waiter))).took, 100)
        yield* eventually(
          "nobody waits",
          Effect.map(db.stats, ({ waiting }) => waiting === 0)
        )
        assert.strictEqual(reasonOf(yield* Effect.flip(users.countDocuments())), "Throttled")
        yield* Fiber.join(slow)
        assert.strictEqual(yield* users.countDocuments(), 1)
        const { acquire } = yield* db.stats
        assert.isAbove(acquire?.count ?? 0, 2)
      })
    )

    it.scoped("released while operations are under way: they may end, the report says so, and no session is left", () =>
      Effect.gen(function* () {
        const server = yield* MongoWireServer.make()
        const scope = yield* Scope.make()
        const db = yield* Scope.extend(MongoDb.make(settingsOf(server.url, { drainTimeout: "2 seconds" })), scope)
        const users = fresh(db)
        yield* users.insertMany(Array.from({ length: 10 }, (_, age) => ({ name: "u", age })))
        yield* server.fail({ commands: ["update"], delayMillis: 300 })
        const slow = yield* Effect.fork(users.updateMany({}, { $inc: { age: 1 } }))
        yield* eventually(
          "it is under way",
          Effect.map(db.stats, ({ inUse }) => inUse === 1)
        )
        yield* Scope.close(scope, Exit.void)
        assert.strictEqual((yield* Fiber.join(slow)).modified, 10)
        const report = yield* db.drained
        assert.deepStrictEqual([report.inUse, report.finished, report.cut], [1, 1, 0])
        assert.strictEqual(reasonOf(yield* Effect.flip(users.countDocuments())), "Closed")
        yield* eventually(
          "nothing is left on the server",
          Effect.map(
            server.counts,
            ({ connections, cursors, sessions }) => connections === 0 && cursors === 0 && sessions === 0
          )
        )
      })
    )

    it.scoped(
      "internal: no span, line or metric; external: one span for each operation, named as OpenTelemetry has it",
      () =>
        Effect.gen(function* () {
          const everything = (db: MongoDb.Database) =>
            Effect.gen(function* () {
              const users = fresh(db)
              yield* users.insertOne({ name: "hush-hush", age: 1 })
              yield* users.findAll({})
              yield* Stream.runDrain(users.find({}, { batchSize: 1 }))
              yield* users.updateMany({}, { $inc: { age: 1 } })
              yield* Effect.ignore(users.updateMany({}, { $nothing: 1 }))
              yield* db.transaction(users.deleteMany({}))
              return users.name
            })
          const internal = yield* connect()
          yield* Recording.assertSilent(Effect.zipRight(everything(internal), internal.health))
          const external = yield* connect({ plane: "external" })
          const recording = yield* Recording.make
          const name = yield* recording.within(everything(external))
          const spans = yield* recording.spans
          assert.deepStrictEqual(
            spans.map((span) => span.name),
            [
              `insertOne ${name}`,
              `find ${name}`,
              `find ${name}`,
              `updateMany ${name}`,
              `updateMany ${name}`,
              `deleteMany ${name}`,
              "commitTransaction shop"
            ]
          )
          const [first] = spans
          assert.isDefined(first)
          assert.strictEqual(first.kind, "client")
          assert.strictEqual(first.attributes.get("db.system.name"), "mongodb")
          assert.strictEqual(first.attributes.get("db.namespace"), "shop")
          assert.strictEqual(first.attributes.get("db.collection.name"), name)
          assert.strictEqual(first.attributes.get("db.operation.name"), "insertOne")
          assert.strictEqual(first.attributes.get("server.address"), "127.0.0.1")
          const shown = JSON.stringify([
            spans.map((span) => [...span.attributes].map(String)),
            (yield* recording.lines).map((line) => String(line.message))
          ])
          assert.notInclude(shown, "hush-hush")
        })
    )
  })

  it.scopedLive("a password is checked, and never shown", () =>
    Effect.gen(function* () {
      const server = yield* MongoWireServer.make({ user: { name: "ann", password: "p@ss/word" } })
      const db = yield* MongoDb.make(settingsOf(server.url))
      assert.strictEqual((yield* db.health).status, "up")
      const wrong = settingsOf(`mongodb://${server.host}:${server.port}/?directConnection=true`, {
        username: "ann",
        password: Redacted.make("hush-hush")
      })
      const error = yield* Effect.flip(MongoDb.make(wrong))
      assert.strictEqual(error.reason, "Authentication")
      assert.notInclude(`${error.message} ${JSON.stringify(error)}`, "hush-hush")
      yield* MongoDb.make({ ...wrong, password: Redacted.make("p@ss/word") })
      const nobody = yield* Effect.flip(MongoDb.make({ ...wrong, username: undefined, password: undefined }))
      assert.strictEqual(nobody.reason, "PermissionDenied")
    })
  )

  it.scopedLive("nothing listens, or it never answers: eager fails in time, lazy and background are there", () =>
    Effect.gen(function* () {
      const port = (yield* Effect.scoped(MongoWireServer.make())).port
      const url = `mongodb://127.0.0.1:${port}/?directConnection=true`
      const eager = yield* timed(Effect.flip(MongoDb.make(settingsOf(url, { connectTimeout: "1 second" }))))
      assert.strictEqual(eager.value.reason, "Unavailable")
      assert.isBelow(eager.took, 1_500)
      const lazy = yield* MongoDb.make(settingsOf(url, { connectTimeout: "300 millis", connect: "lazy" }))
      assert.strictEqual(yield* lazy.state, "idle")
      const background = yield* MongoDb.make(settingsOf(url, { connectTimeout: "300 millis", connect: "background" }))
      const users = fresh(background)
      assert.strictEqual(reasonOf(yield* Effect.flip(users.countDocuments())), "Unavailable")
      yield* MongoWireServer.make({ port })
      yield* eventually(
        "it is ready",
        Effect.map(background.state, (state) => state === "ready")
      )
      assert.strictEqual(yield* users.countDocuments(), 0)
      assert.strictEqual(yield* fresh(lazy).countDocuments(), 0)
    })
  )

  it.scopedLive("a connection that comes about after its time leaves no socket", () =>
    Effect.gen(function* () {
      const server = yield* MongoWireServer.make()
      const { close, connect } = MongoClient.prototype
      let closed = 0
      let open = (): void => undefined
      const gate = new Promise<void>((resolve) => {
        open = resolve
      })
      let connecting: Promise<unknown> | undefined
      // as when the name of its hosts resolves late
      yield* Effect.acquireRelease(
        Effect.sync(() => {
          MongoClient.prototype.connect = async function (this: MongoClient) {
            await gate
            connecting = connect.call(this)
            await connecting
            return this
          }
          MongoClient.prototype.close = async function (this: MongoClient) {
            await close.call(this)
            closed++
          }
        }),
        () =>
          Effect.sync(() => {
            MongoClient.prototype.connect = connect
            MongoClient.prototype.close = close
          })
      )
      const error = yield* Effect.flip(MongoDb.make(settingsOf(server.url, { connectTimeout: "100 millis" })))
      assert.strictEqual(error.reason, "Timeout")
      yield* eventually(
        "it is closed, and has nothing yet to close",
        Effect.sync(() => closed === 1)
      )
      open()
      yield* eventually(
        "it connects",
        Effect.sync(() => connecting !== undefined)
      )
      yield* Effect.promise(async () => connecting)
      yield* eventually(
        "no socket is left",
        Effect.map(server.counts, ({ connections }) => connections === 0)
      )
    })
  )

  it.scopedLive("from the registry, by configuration; every wrong setting is told at once, without its value", () =>
    Effect.gen(function* () {
      const server = yield* MongoWireServer.make()
      const configured = (values: Record<string, string>) =>
        Effect.withConfigProvider(
          ConfigProvider.fromMap(
            new Map(Object.entries(values).map(([key, value]) => [`connections.orders.${key}`, value]))
          )
        )
      const good = { url: server.url, database: "orders", connectTimeout: "2 seconds", plane: "internal" }
      const db = yield* configured(good)(
        Effect.flatMap(Connections.make([MongoDb.kind]), (registry) => registry.get(MongoDb.kind, "orders"))
      )
      assert.strictEqual(db.name, "orders")
      const count = yield* db.use((database) => database.collection("things").countDocuments())
      assert.strictEqual(count, 0)
      const wrong = { maxConnections: "0", connectTimeout: "soon", plane: "outer", password: "hush-hush" }
      const read = yield* Effect.flip(
        Effect.withConfigProvider(MongoDb.config, ConfigProvider.fromMap(new Map(Object.entries(wrong))))
      )
      for (const field of ["url", "maxConnections", "connectTimeout", "plane"]) assert.include(String(read), field)
      assert.notInclude(String(read), "hush-hush")
      const invalid = yield* Effect.flip(MongoDb.make(settingsOf("postgres://user:hush-hush@host")))
      assert.strictEqual(invalid.reason, "InvalidSettings")
      assert.notInclude(String(invalid), "hush-hush")
      for (const url of [
        "mongodb://host/?noSuchOption=1",
        "mongodb://host/%zz",
        "mongodb://user:hush@hush-hush@host/db",
        "mongodb://user:hush-hush@host:port/db"
      ]) {
        // lazy: what is wrong is told before anything is shown
        const option = yield* Effect.flip(
          Effect.flatMap(MongoDb.make(settingsOf(url, { connect: "lazy" })), (lazy) => lazy.capabilities)
        )
        assert.strictEqual(option.reason, "InvalidSettings", url)
        assert.notInclude(`${String(option)} ${JSON.stringify(option)} ${String(option.cause)}`, "hush-hush")
      }
      assert.strictEqual(
        (yield* Effect.flip(MongoDb.make(settingsOf("mongodb://user:hush@hush@host/db", { connect: "lazy" })))).reason,
        "InvalidSettings"
      )
    })
  )
})
