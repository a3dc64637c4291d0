import { assert, describe, layer } from "@effect/vitest"
import { Recording } from "@underlay/core/testing"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import { Chunk, Effect, Exit, Fiber, Option, Queue, Ref, Schedule, Scope, Stream } from "effect"
import * as MongoDb from "../../src/database/MongoDb.ts"
import { connect, double, eventually, fresh, reasonOf, Server, settingsOf, User } from "./mongoTest.ts"

type Event = MongoDb.ChangeEvent<typeof User.Type>

const noCursor = Effect.flatMap(Server, (server) =>
  eventually(
    "no cursor is left",
    Effect.map(server.counts, ({ cursors }) => cursors === 0)
  )
)

/** Watches until the test is over; what comes is in the queue. */
const watching = Effect.fnUntraced(function* (users: ReturnType<typeof fresh>, options?: MongoDb.WatchOptions) {
  const server = yield* Server
  const queue = yield* Queue.unbounded<Event>()
  const { aggregate = 0 } = (yield* server.counts).commands
  const fiber = yield* Effect.forkScoped(
    Effect.either(Stream.runForEach(users.watch(options), (event) => Queue.offer(queue, event)))
  )
  yield* eventually(
    "it watches",
    Effect.map(server.counts, ({ commands }) => (commands["aggregate"] ?? 0) > aggregate)
  )
  return { queue, fiber, take: Effect.timeout(Queue.take(queue), "5 seconds") }
})

describe("MongoDb change streams, on the double", () => {
  layer(double(), { excludeTestServices: true })((it) => {
    it.scoped("each kind of change comes typed, with a token at which it can be taken up again", () =>
      Effect.gen(function* () {
        const users = fresh(yield* connect())
        const { fiber, take } = yield* watching(users, { fullDocument: "updateLookup" })
        const id = yield* users.insertOne({ name: "ann", age: 1 })
        const first = yield* take
        assert.strictEqual(first.operationType, "insert")
        assert.deepStrictEqual(Option.getOrThrow(first.document), { _id: id, name: "ann", age: 1 })
        yield* users.updateOne({ name: "ann" }, { $set: { age: 2 }, $unset: { tags: "" } })
        const second = yield* take
        assert.strictEqual(Option.getOrThrow(second.document).age, 2)
        assert.deepStrictEqual(Option.getOrThrow(second.update).updated, { age: 2 })
        yield* users.replaceOne({ name: "ann" }, { name: "bob", age: 3 })
        assert.strictEqual((yield* take).operationType, "replace")
        yield* users.deleteMany({})
        const last = yield* take
        assert.strictEqual(last.operationType, "delete")
        assert.isTrue(Option.isNone(last.document))
        yield* users.drop
        assert.strictEqual((yield* take).operationType, "drop")
        assert.strictEqual((yield* take).operationType, "invalidate")
        // and that is the end
        assert.strictEqual((yield* Fiber.join(fiber))._tag, "Right")
        const rest = yield* Stream.runCollect(Stream.take(users.watch({ resumeAfter: first.resumeToken }), 3))
        assert.deepStrictEqual(
          Chunk.toReadonlyArray(rest).map((event) => event.operationType),
          ["update", "replace", "delete"]
        )
        yield* noCursor
      })
    )

    it.scoped("a transaction's changes come when it is committed; stages choose among the changes", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const users = fresh(db)
        const { take } = yield* watching(users, { pipeline: [{ $match: { "fullDocument.age": { $gt: 1 } } }] })
        yield* Effect.ignore(db.transaction(Effect.zipRight(users.insertOne({ name: "no", age: 9 }), Effect.fail(1))))
        yield* db.transaction(users.insertMany([1, 2, 3].map((age) => ({ name: `u${age}`, age }))))
        assert.strictEqual(Option.getOrThrow((yield* take).document).name, "u2")
        assert.strictEqual(Option.getOrThrow((yield* take).document).name, "u3")
      })
    )

    it.scoped("interrupted at any step it is over at once and leaves no cursor", () =>
      Effect.gen(function* () {
        const users = fresh(yield* connect())
        let best = Number.POSITIVE_INFINITY
        for (let step = 0; step < 30; step++) {
          const fiber = yield* Effect.fork(Stream.runDrain(users.watch()))
          yield* Effect.sleep(step)
          const from = performance.now()
          yield* Fiber.interrupt(fiber)
          best = Math.min(best, performance.now() - from)
        }
        assert.isBelow(best, 50)
        yield* noCursor
      })
    )

    it.scoped("sockets that break and a server that is away cost no change and double none", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const writer = yield* connect()
        const proxy = yield* FaultProxy.make({ port: server.port })
        const db = yield* MongoDb.make(
          settingsOf(`mongodb://${proxy.host}:${proxy.port}/?directConnection=true`, { connectTimeout: "1 second" })
        )
        const written = fresh(writer)
        const watched = db.collection(written.name)
        const seen = yield* Ref.make<ReadonlyArray<number>>([])
        const before = (yield* server.counts).commands["aggregate"] ?? 0
        const fiber = yield* Effect.forkScoped(
          Effect.either(
            Stream.runForEach(watched.watch({ batchSize: 2 }), (event) =>
              Ref.update(seen, (all) => [...all, Number(Option.getOrThrow(event.document)["age"])])
            )
          )
        )
        yield* eventually(
          "it watches",
          Effect.map(server.counts, ({ commands }) => (commands["aggregate"] ?? 0) > before)
        )
        for (let age = 0; age < 60; age++) {
          yield* written.insertOne({ name: "u", age })
          if (age % 10 === 3) yield* proxy.resetAll
          if (age % 10 === 7) yield* proxy.resetAfter(10)
          // longer than the driver looks for a server, so that it gives up, and we do not
          if (age === 25) {
            yield* proxy.refuse(true)
            yield* proxy.resetAll
            yield* Effect.sleep(1_300)
            yield* proxy.refuse(false)
          }
          if (age === 40) yield* server.forgetCursors
        }
        const all = Array.from({ length: 60 }, (_, index) => index)
        yield* eventually(
          "all have come",
          Effect.map(Ref.get(seen), (ages) => ages.length >= all.length)
        ).pipe(Effect.retry({ times: 3 }))
        assert.deepStrictEqual(yield* Ref.get(seen), all)
        yield* Fiber.interrupt(fiber)
        yield* noCursor
      })
    )

    it.scoped("all sockets are in use for too long: the stream waits and goes on", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const writer = yield* connect()
        const db = yield* connect({ maxConnections: 1, acquireTimeout: "50 millis" })
        const users = fresh(writer)
        const watched = yield* watching(db.collection(users.name, User))
        yield* server.fail({ commands: ["find"], delayMillis: 800 })
        const slow = yield* Effect.fork(
          Effect.retry(db.collection("slow").findAll({}), { times: 200, schedule: Schedule.spaced("5 millis") })
        )
        yield* users.insertOne({ name: "ann", age: 1 })
        yield* Fiber.join(slow)
        yield* users.insertOne({ name: "bob", age: 2 })
        assert.strictEqual(Option.getOrThrow((yield* watched.take).document).name, "ann")
        assert.strictEqual(Option.getOrThrow((yield* watched.take).document).name, "bob")
        assert.isTrue(Option.isNone(yield* Fiber.poll(watched.fiber)))
      })
    )

    it.scoped("a server that no longer has the changes: ChangeStreamHistoryLost, from a token and in the middle", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const users = fresh(yield* connect())
        const { fiber, take } = yield* watching(users)
        yield* users.insertOne({ name: "ann", age: 1 })
        const { resumeToken } = yield* take
        yield* server.forgetChanges
        const ended = yield* Effect.timeout(Fiber.join(fiber), "5 seconds")
        assert.instanceOf(ended._tag === "Left" ? ended.left : undefined, MongoDb.ChangeStreamHistoryLost)
        const error = yield* Effect.flip(Stream.runDrain(users.watch({ resumeAfter: resumeToken })))
        assert.instanceOf(error, MongoDb.ChangeStreamHistoryLost)
        assert.isFalse(error.isRetryable)
        yield* noCursor
      })
    )

    for (const plane of ["internal", "external"] as const) {
      it.scoped(`${plane}: the release of the connection ends it at once, and does not wait for the drain`, () =>
        Effect.gen(function* () {
          const scope = yield* Scope.make()
          const db = yield* Scope.extend(connect({ plane, drainTimeout: "20 seconds" }), scope)
          const users = fresh(db)
          const { fiber } = yield* watching(users)
          yield* users.insertOne({ name: "ann", age: 1 })
          yield* Scope.close(scope, Exit.void)
          const report = yield* db.drained
          assert.isBelow(report.tookMs, 5_000)
          assert.deepStrictEqual([report.inUse, report.finished, report.cut], [1, 1, 0])
          const ended = yield* Effect.timeout(Fiber.join(fiber), "5 seconds")
          assert.strictEqual(ended._tag === "Left" ? reasonOf(ended.left) : "it ended", "Closed")
          yield* noCursor
        })
      )
    }

    it.scoped("it gives up when its schedule does, with the error of the server", () =>
      Effect.gen(function* () {
        const server = yield* Server
        const proxy = yield* FaultProxy.make({ port: server.port })
        const db = yield* MongoDb.make(
          settingsOf(`mongodb://${proxy.host}:${proxy.port}/?directConnection=true`, { connectTimeout: "1 second" })
        )
        const { fiber } = yield* watching(fresh(db), { reconnect: Schedule.recurs(1) })
        yield* proxy.refuse(true)
        yield* proxy.resetAll
        const ended = yield* Effect.timeout(Fiber.join(fiber), "10 seconds")
        assert.strictEqual(ended._tag === "Left" ? reasonOf(ended.left) : "it ended", "Unavailable")
        yield* proxy.refuse(false)
        yield* server.forgetCursors
      })
    )

    it.scoped("a change whose document is not as the schema says stops it by path, or is skipped and counted", () =>
      Effect.gen(function* () {
        const db = yield* connect()
        const users = fresh(db)
        const raw = db.collection(users.name)
        const { fiber, take } = yield* watching(users)
        const lenient = db.collection(users.name, User, {
          invalid: "skip"
        })
        const second = yield* watching(lenient)
        yield* users.insertOne({ name: "ann", age: 1 })
        yield* raw.insertOne({ name: "bob", age: "hush-hush" })
        yield* users.insertOne({ name: "cid", age: 3 })
        yield* take
        const ended = yield* Effect.timeout(Fiber.join(fiber), "5 seconds")
        assert.isTrue(ended._tag === "Left" && ended.left instanceof MongoDb.DocumentInvalid)
        assert.strictEqual(Option.getOrThrow((yield* second.take).document).name, "ann")
        assert.strictEqual(Option.getOrThrow((yield* second.take).document).name, "cid")
        assert.strictEqual(yield* lenient.skipped, 1)
      })
    )

    it.scoped("the databases of the server itself have none, and to ask is no failure", () =>
      Effect.gen(function* () {
        for (const plane of ["internal", "external"] as const) {
          for (const [database, changeStreams] of [
            ["shop", true],
            ["admin", false],
            ["config", false],
            ["local", false]
          ] as const) {
            const db = yield* connect({ database, plane })
            const recording = yield* Recording.make
            for (let time = 0; time < 2; time++) {
              assert.deepStrictEqual(yield* recording.within(db.capabilities), { transactions: true, changeStreams })
            }
            const spans = yield* recording.spans
            // What is known is not asked again.
            assert.deepStrictEqual(
              spans.map(({ name, status }) => [name, status._tag === "Ended" && Exit.isSuccess(status.exit)]),
              plane === "internal" ? [] : [[`capabilities ${database}`, true]]
            )
            if (!changeStreams) {
              const refused = yield* Effect.flip(Stream.runDrain(db.watchAll()))
              assert.strictEqual(reasonOf(refused), "InvalidRequest")
            }
          }
        }
      })
    )
  })
})
