import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { EventBus } from "@underlay/core"
import { Recording } from "@underlay/core/testing"
import { RedisClient, RedisEventBus } from "@underlay/redis"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import { Chunk, Deferred, Effect, Exit, Fiber, Layer, Option, Schema, Scope, Stream } from "effect"
import * as Slots from "../src/internal/slots.ts"
import { client, pause, RedisServer, server, timed } from "./support.ts"

const Event = Schema.Struct({ n: Schema.Number })
type Event = typeof Event.Type
const topic = (options: Partial<EventBus.TopicOptions<Event, Event>> = {}) =>
  EventBus.topic({ name: "work", schema: Event, partitions: 4, ...options })

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

const texts = (reply: RedisClient.Reply): ReadonlyArray<string> => (Array.isArray(reply) ? reply.map(String) : [])

/** Waits for what a server and other processes do in their own time. */
const until = <E, R>(
  what: string,
  condition: Effect.Effect<boolean, E, R>,
  seconds = 15
): Effect.Effect<void, E, R> => {
  const started = performance.now()
  const look: Effect.Effect<void, E, R> = Effect.flatMap(condition, (holds) => {
    if (holds) return Effect.void
    if (performance.now() - started > seconds * 1_000) return Effect.dieMessage(`in vain: ${what}`)
    return Effect.zipRight(pause(10), look)
  })
  return look
}

const recorder = () => {
  const seen: Array<EventBus.Message<Event>> = []
  return {
    seen,
    numbers: () => seen.map(({ event }) => event.n),
    handler: (message: EventBus.Message<Event>) => Effect.sync(() => void seen.push(message)),
    has: (count: number) =>
      until(
        `${count} events`,
        Effect.sync(() => seen.length >= count)
      )
  }
}

const settled = (bus: EventBus.Service, of: EventBus.Topic<Event, Event>, group: string) =>
  until(
    "all is settled",
    Effect.map(
      Effect.orElseSucceed(bus.stats(of, group), () => ({ lag: 1, pending: 1 })),
      ({ lag, pending }) => lag + pending === 0
    )
  )

const fast = { claimAfter: "1 second", pollInterval: "50 millis", retryDelay: "20 millis" } as const

const bus = RedisEventBus.layer.pipe(Layer.provideMerge(client()))
const real = bus.pipe(Layer.provideMerge(server()))
const persistent = bus.pipe(Layer.provideMerge(server({ appendOnly: true })))

interface Worker {
  readonly pid: number
  readonly ready: Effect.Effect<void>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
  readonly exited: Effect.Effect<void>
}

const worker = (name: string, pauseMillis = 0): Effect.Effect<Worker, never, Scope.Scope | RedisServer> =>
  Effect.flatMap(RedisServer, ({ port }) =>
    Effect.map(
      Effect.acquireRelease(
        Effect.sync(() => {
          const file = Path.join(import.meta.dirname, "eventWorker.ts")
          const child = ChildProcess.spawn(
            process.execPath,
            ["--import", "tsx", file, String(port), name, String(pauseMillis)],
            { stdio: ["ignore", "pipe", "inherit"] }
          )
          const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()))
          const ready = new Promise<void>((resolve) => child.stdout.once("data", () => resolve()))
          return { child, exited, ready }
        }),
        ({ child, exited }) =>
          Effect.promise(() => {
            child.kill("SIGCONT")
            child.kill("SIGKILL")
            return exited
          })
      ),
      ({ child, exited, ready }) => ({
        pid: child.pid ?? 0,
        ready: Effect.promise(() => ready),
        signal: (signal: NodeJS.Signals) => Effect.sync(() => void child.kill(signal)),
        exited: Effect.promise(() => exited)
      })
    )
  )

/** What was begun first of each key must be in order: nothing was passed over, whatever came twice. */
const assertOrder = (lines: ReadonlyArray<string>) => {
  const next = new Map<string, number>()
  for (const line of lines) {
    const [key = "", n = ""] = line.split(" ")
    const expected = next.get(key) ?? 1
    assert.isAtMost(Number(n), expected, `${line}: ${key} ${expected} was passed over`)
    if (Number(n) === expected) next.set(key, expected + 1)
  }
}

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisEventBus", "redis-server"), () => {
  describe("processes", () => {
    it.scopedLive(
      "one that is killed and one that is stopped lose nothing, and no key is out of order",
      () =>
        Effect.gen(function* () {
          const eventBus = yield* EventBus.EventBus
          const work = topic()
          const workers = yield* Effect.forEach(["one", "two", "three"], (name) => worker(name, 3))
          yield* Effect.forEach(workers, ({ ready }) => ready)
          const [one, two] = workers
          const keys = ["a", "b", "c", "d", "e", "f", "g", "h"]
          const publishing = yield* Effect.fork(
            Effect.forEach(
              Array.from({ length: 60 }, (_, index) => index + 1),
              (n) =>
                Effect.zipRight(
                  Effect.forEach(keys, (key) => eventBus.publish(work, { n }, { key }), { concurrency: "unbounded" }),
                  Effect.sleep("15 millis")
                )
            )
          )
          const done = Effect.map(send("LRANGE", "done", 0, -1), texts)
          yield* until(
            "all three work",
            Effect.map(done, (lines) =>
              ["one", "two", "three"].every((name) => lines.some((line) => line.endsWith(name)))
            )
          )
          yield* two?.signal("SIGSTOP") ?? Effect.void
          yield* one?.signal("SIGKILL") ?? Effect.void
          yield* Fiber.join(publishing)
          const missing = Effect.map(done, (lines) => {
            const all = new Set(lines.map((line) => line.split(" ").slice(0, 2).join(" ")))
            return keys.length * 60 - all.size
          })
          yield* until(
            "the third has done everything",
            Effect.map(missing, (count) => count === 0),
            30
          )
          // it wakes up and believes for a moment that it is still at work
          yield* two?.signal("SIGCONT") ?? Effect.void
          yield* eventBus.publishAll(
            work,
            keys.map((key) => ({ event: { n: 61 }, key }))
          )
          yield* settled(eventBus, work, "g")
          assertOrder(yield* Effect.map(send("LRANGE", "begun", 0, -1), texts))
          assert.strictEqual(yield* eventBus.deadLetters(work, "g").count, 0)
          // it takes part again
          yield* until(
            "two readers",
            Effect.map(eventBus.stats(work, "g"), ({ partitions }) =>
              new Set(partitions.map(({ consumer }) => consumer)).has("two")
            )
          )
        }).pipe(Effect.provide(real)),
      60_000
    )

    it.scopedLive(
      "an event that kills its process becomes a dead letter, and the others are handled",
      () =>
        Effect.gen(function* () {
          const eventBus = yield* EventBus.EventBus
          const work = topic()
          for (let n = 1; n <= 10; n++) yield* eventBus.publish(work, { n }, { key: `k${n % 3}` })
          yield* eventBus.publish(work, { n: -1 }, { key: "poison" })
          for (const name of ["one", "two", "three"]) yield* Effect.flatMap(worker(name), ({ exited }) => exited)
          yield* worker("four")
          yield* settled(eventBus, work, "g")
          const letters = yield* eventBus.deadLetters(work, "g").read()
          assert.deepStrictEqual(
            letters.map(({ event, reason }) => [Option.getOrThrow(event).n, reason]),
            [[-1, "Abandoned"]]
          )
          const begun = yield* Effect.map(send("LRANGE", "begun", 0, -1), texts)
          assert.strictEqual(begun.filter((line) => line.startsWith("poison")).length, 3)
          const done = yield* Effect.map(send("LRANGE", "done", 0, -1), texts)
          assert.strictEqual(new Set(done.map((line) => line.split(" ")[1])).size, 10)
          // those who are gone have left nothing behind among the consumers of the streams
          for (const partition of [0, 1, 2, 3]) {
            const consumers = yield* send("XINFO", "CONSUMERS", `events:work:${partition}`, "g")
            const names = Array.isArray(consumers) ? consumers.map((one) => texts(one)[1]) : []
            assert.deepStrictEqual(
              names.filter((name) => name !== "four"),
              []
            )
          }
        }).pipe(Effect.provide(real)),
      60_000
    )
  })

  describe("faults", () => {
    it.scopedLive(
      "connections that are reset under load: each event is published once and handled at least once, in order",
      () =>
        Effect.gen(function* () {
          const { host, port } = yield* RedisServer
          const proxy = yield* FaultProxy.make({ host, port })
          const through = yield* Layer.build(
            RedisEventBus.layer.pipe(
              Layer.provideMerge(
                RedisClient.layer({
                  host: proxy.host,
                  port: proxy.port,
                  commandTimeout: "2 seconds",
                  reconnectDelay: 5
                })
              )
            )
          )
          const eventBus = yield* Effect.provide(EventBus.EventBus, through)
          const work = topic()
          const { handler, seen } = recorder()
          yield* eventBus.subscribe(work, { group: "g", ...fast })(handler)
          const keys = ["a", "b", "c", "d", "e"]
          const publish = (key: string, n: number): Effect.Effect<EventBus.Published> =>
            Effect.catchAll(eventBus.publish(work, { n }, { key, id: `${key}-${n}` }), (error) => {
              assert.isTrue(error.isRetryable, error.message)
              return Effect.zipRight(Effect.sleep("5 millis"), publish(key, n))
            })
          const resets = yield* Effect.fork(
            Effect.forever(
              Effect.zipRight(
                // every second time the server has done it and the answer is lost
                Effect.zipRight(proxy.resetAfter(0), Effect.zipRight(pause(15), proxy.resetAll)),
                pause(15)
              )
            )
          )
          // as many hundreds of each key as it takes, however quick the machine is
          let each = 0
          while ((yield* proxy.counts).reset < 20) {
            assert.isNull(resets.unsafePoll(), "nobody resets connections any more")
            assert.isBelow(each, 50_000, "they are not reset")
            yield* Effect.forEach(
              keys,
              (key) =>
                Effect.forEach(
                  Array.from({ length: 100 }, (_, index) => each + index + 1),
                  (n) => publish(key, n)
                ),
              { concurrency: "unbounded" }
            )
            each += 100
          }
          const all = each * keys.length
          yield* Fiber.interrupt(resets)
          yield* proxy.calm
          yield* until(
            "all are handled",
            Effect.sync(() => new Set(seen.map(({ id }) => id)).size === all),
            30
          )
          yield* settled(eventBus, work, "g")
          const there = Chunk.toReadonlyArray(yield* Stream.runCollect(eventBus.stream(work, { follow: false })))
          assert.strictEqual(there.length, all)
          assertOrder(seen.map(({ event, key }) => `${key} ${event.n}`))
        }).pipe(Effect.provide(server())),
      60_000
    )

    it.scopedLive("a server that is killed and comes back: what was published is handled", () =>
      Effect.gen(function* () {
        const redis = yield* RedisServer
        const eventBus = yield* EventBus.EventBus
        const work = topic()
        const events = recorder()
        const gate = yield* Deferred.make<void>()
        const subscription = yield* eventBus.subscribe(work, { group: "g", ...fast })((message) =>
          Effect.zipRight(Deferred.await(gate), events.handler(message))
        )
        for (let n = 1; n <= 20; n++) yield* eventBus.publish(work, { n }, { key: `${n % 4}` })
        yield* until(
          "they run",
          Effect.map(subscription.stats, ({ running }) => running === 4)
        )
        yield* redis.kill
        const error = yield* Effect.flip(eventBus.publish(work, { n: 21 }))
        assert.include(["Unavailable", "Timeout"], error.reason)
        yield* pause(1_500)
        // nobody could say any more whose these were
        assert.strictEqual((yield* subscription.stats).running, 0)
        yield* redis.start
        yield* Deferred.succeed(gate, undefined)
        yield* until(
          "all",
          Effect.sync(() => new Set(events.numbers()).size === 20)
        )
        yield* settled(eventBus, work, "g")
        yield* eventBus.publish(work, { n: 22 })
        yield* until(
          "the next",
          Effect.sync(() => events.numbers().includes(22))
        )
      }).pipe(Effect.provide(persistent))
    )

    it.scopedLive("a server that is frozen: a subscription ends in time", () =>
      Effect.gen(function* () {
        const { freeze, host, port, thaw } = yield* RedisServer
        const context = yield* Layer.build(
          RedisEventBus.layer.pipe(Layer.provide(RedisClient.layer({ host, port, commandTimeout: "500 millis" })))
        )
        const eventBus = yield* Effect.provide(EventBus.EventBus, context)
        const work = topic()
        const scope = yield* Scope.make()
        yield* Scope.extend(
          eventBus.subscribe(work, { group: "g", ...fast })(() => Effect.never),
          scope
        )
        yield* eventBus.publish(work, { n: 1 })
        yield* Effect.acquireRelease(freeze, () => thaw)
        const [, took] = yield* timed(Scope.close(scope, Exit.void))
        // two command timeouts, and what a busy machine takes: not for ever
        assert.isBelow(took, 3_000)
      }).pipe(Effect.provide(server()))
    )

    it.scopedLive("everything is lost (FLUSHALL, SCRIPT FLUSH): what is published afterwards is handled", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic()
        const events = recorder()
        yield* eventBus.subscribe(work, { group: "g", ...fast })(events.handler)
        yield* eventBus.publish(work, { n: 1 })
        yield* events.has(1)
        yield* send("FLUSHALL")
        yield* send("SCRIPT", "FLUSH")
        for (let n = 2; n <= 9; n++) yield* eventBus.publish(work, { n })
        yield* events.has(9)
        assert.deepStrictEqual([...events.numbers()].sort(), [1, 2, 3, 4, 5, 6, 7, 8, 9])
        yield* settled(eventBus, work, "g")
      }).pipe(Effect.provide(real))
    )

    it.scopedLive("a server without memory: publishing fails typed, and handling goes on", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic()
        const events = recorder()
        const gate = yield* Deferred.make<void>()
        yield* eventBus.subscribe(work, { group: "g", ...fast })((message) =>
          Effect.zipRight(Deferred.await(gate), events.handler(message))
        )
        for (let n = 1; n <= 8; n++) yield* eventBus.publish(work, { n })
        yield* send("CONFIG", "SET", "maxmemory", "1")
        const error = yield* Effect.flip(eventBus.publish(work, { n: 9 }, { id: "nine" }))
        assert.deepStrictEqual([error.reason, error.outcome], ["Rejected", "not-done"])
        yield* Deferred.succeed(gate, undefined)
        yield* events.has(8)
        yield* send("CONFIG", "SET", "maxmemory", "0")
        yield* eventBus.publish(work, { n: 9 }, { id: "nine" })
        yield* events.has(9)
        yield* settled(eventBus, work, "g")
      }).pipe(Effect.provide(real))
    )

    it.scopedLive(
      "a server without memory: who comes anew takes the backlog over, and buries what it cannot handle",
      () =>
        Effect.gen(function* () {
          const eventBus = yield* EventBus.EventBus
          const work = topic()
          const subscribe = { group: "g", maxDeliveries: 1, ...fast } as const
          yield* Effect.scoped(eventBus.subscribe(work, subscribe)(() => Effect.void))
          for (let n = 1; n <= 8; n++) yield* eventBus.publish(work, { n }, { key: `${n}` })
          yield* send("CONFIG", "SET", "maxmemory", "1")
          const full = yield* Effect.flip(send("SET", "more", "x"))
          assert.strictEqual(full.code, "OOM")
          const events = recorder()
          const subscription = yield* eventBus.subscribe(
            work,
            subscribe
          )((message) => (message.event.n % 2 === 0 ? Effect.fail("no") : events.handler(message)))
          yield* settled(eventBus, work, "g")
          assert.deepStrictEqual([...events.numbers()].sort(), [1, 3, 5, 7])
          assert.strictEqual(yield* eventBus.deadLetters(work, "g").count, 4)
          yield* eventBus.seek(work, "g", "end")
          // longer than a lease lasts: nothing was refused meanwhile
          yield* pause(1_300)
          yield* until(
            "it reads every partition",
            Effect.map(subscription.stats, ({ partitions }) => partitions.length === 4)
          )
          assert.strictEqual((yield* subscription.stats).storeErrors, 0)
          const there = yield* Stream.runCollect(Stream.take(eventBus.stream(work, { pollInterval: "50 millis" }), 8))
          assert.strictEqual(Chunk.size(there), 8)
          const none = yield* Stream.runCollect(eventBus.stream(work, { from: "end", follow: false }))
          assert.strictEqual(Chunk.size(none), 0)
          const tail = yield* Effect.fork(
            Stream.runHead(eventBus.stream(work, { from: "end", pollInterval: "50 millis" }))
          )
          // it looks in vain a few times, and does not fail
          yield* pause(200)
          assert.isTrue(Option.isNone(yield* Fiber.poll(tail)))
          yield* send("CONFIG", "SET", "maxmemory", "0")
          yield* until(
            "what comes is handed out",
            Effect.zipRight(eventBus.publish(work, { n: 9 }), Effect.map(Fiber.poll(tail), Option.isSome))
          )
          assert.isTrue(Option.isSome(yield* Fiber.join(tail)))
        }).pipe(Effect.provide(real))
    )

    it.scopedLive("what was done in some partitions and refused in others has an unknown outcome", () =>
      Effect.gen(function* () {
        const { host, port } = yield* RedisServer
        const of = (username: string) =>
          Effect.flatMap(
            Layer.build(
              RedisEventBus.layer.pipe(Layer.provide(RedisClient.layer({ host, port, username, password: "secret" })))
            ),
            (context) => Effect.provide(EventBus.EventBus, context)
          )
        const some = yield* of("some")
        const none = yield* of("none")
        const outcomes = (eventBus: EventBus.Service) =>
          Effect.forEach(
            [
              eventBus.seek(topic(), "g", "beginning"),
              eventBus.removeGroup(topic(), "g"),
              Effect.scoped(eventBus.subscribe(topic(), { group: "g" })(() => Effect.void)),
              eventBus.groups(topic())
            ],
            (effect) =>
              Effect.map(Effect.flip(Effect.asVoid(effect)), ({ outcome, reason }) => {
                assert.strictEqual(reason, "Rejected")
                return outcome
              })
          )
        assert.deepStrictEqual(yield* outcomes(some), ["unknown", "unknown", "unknown", "not-done"])
        assert.deepStrictEqual(yield* outcomes(none), ["not-done", "not-done", "not-done", "not-done"])
      }).pipe(
        Effect.provide(
          server({
            users: [
              "some on >secret ~events-topic:* ~{events* ~events:work:[013] &* +@all",
              "none on >secret ~events-topic:* ~{events* &* +@all"
            ]
          })
        )
      )
    )

    it.scopedLive("keys of another type: typed failures, and nothing is a defect", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic({ partitions: 1 })
        yield* send("SET", "events:work:0", "no stream")
        const failures = yield* Effect.forEach(
          [
            eventBus.publish(work, { n: 1 }),
            Effect.scoped(eventBus.subscribe(work, { group: "g" })(() => Effect.void)),
            Stream.runDrain(eventBus.stream(work, { follow: false })),
            eventBus.stats(work, "g"),
            eventBus.groups(work),
            eventBus.seek(work, "g", "end"),
            eventBus.trim(work),
            eventBus.removeGroup(work, "g")
          ],
          (effect) => Effect.flip(Effect.asVoid(effect))
        )
        assert.deepStrictEqual([...new Set(failures.map(({ reason }) => reason))], ["Rejected"])
        for (const { message } of failures) assert.notInclude(message, "work")
        yield* send("SET", "events-topic:other", "no number")
        const other = yield* Effect.flip(eventBus.publish(topic({ name: "other" }), { n: 1 }))
        assert.strictEqual(other.reason, "InvalidTopic")
      }).pipe(Effect.provide(real))
    )
  })

  describe("waiting", () => {
    it.scopedLive("who waits is rung for: nobody polls", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic()
        const events = recorder()
        const slow = { claimAfter: "1 hour", pollInterval: "1 hour" } as const
        yield* eventBus.subscribe(work, { group: "g", ...slow })(events.handler)
        const tail = recorder()
        yield* Effect.forkScoped(
          Stream.runForEach(eventBus.stream(work, { from: "end", pollInterval: "1 hour" }), tail.handler)
        )
        yield* pause(200)
        const before = yield* Effect.map(RedisClient.RedisClient, (redis) => redis.stats).pipe(Effect.flatten)
        yield* pause(300)
        const after = yield* Effect.map(RedisClient.RedisClient, (redis) => redis.stats).pipe(Effect.flatten)
        assert.strictEqual(after.sent, before.sent, "an idle consumer asks for nothing")
        const delays: Array<number> = []
        for (let n = 1; n <= 20; n++) {
          const [, took] = yield* timed(Effect.zipRight(eventBus.publish(work, { n }), events.has(n)))
          delays.push(took)
        }
        // nothing but the bell can have told them within the hour
        delays.sort((one, other) => one - other)
        assert.isBelow(delays[10] ?? 0, 1_000)
        yield* tail.has(20)
        assert.deepStrictEqual(
          [...tail.numbers()].sort((a, b) => a - b),
          Array.from({ length: 20 }, (_, n) => n + 1)
        )
      }).pipe(Effect.provide(real))
    )

    it.scopedLive("a user that may not listen is not rung for, and looks by itself", () =>
      Effect.gen(function* () {
        const { host, port } = yield* RedisServer
        const context = yield* Layer.build(
          RedisEventBus.layer.pipe(
            Layer.provide(RedisClient.layer({ host, port, username: "deaf", password: "secret" }))
          )
        )
        const eventBus = yield* Effect.provide(EventBus.EventBus, context)
        const events = recorder()
        yield* eventBus.subscribe(topic(), { group: "g", pollInterval: "20 millis" })(events.handler)
        yield* eventBus.publish(topic(), { n: 1 })
        yield* events.has(1)
      }).pipe(Effect.provide(server({ users: ["deaf on >secret ~* +@all resetchannels"] })))
    )

    it.scopedLive("another consumer takes over at once what one gives back", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic()
        const slow = { claimAfter: "1 hour", pollInterval: "1 hour" } as const
        const scope = yield* Scope.make()
        const first = yield* Scope.extend(
          eventBus.subscribe(work, { group: "g", consumer: "a", ...slow })(() => Effect.never),
          scope
        )
        for (let n = 1; n <= 8; n++) yield* eventBus.publish(work, { n }, { key: `${n}` })
        yield* until(
          "they run",
          Effect.map(first.stats, ({ running }) => running === 8)
        )
        const events = recorder()
        yield* eventBus.subscribe(work, { group: "g", consumer: "b", ...slow })(events.handler)
        const [, took] = yield* timed(Effect.zipRight(Scope.close(scope, Exit.void), events.has(8)))
        assert.isBelow(took, 3_000)
        assert.isTrue(events.seen.every(({ deliveries }) => deliveries === 1))
      }).pipe(Effect.provide(real))
    )
  })

  it.scopedLive("who does not hold the lease of a partition reads nothing, claims nothing and gives nothing away", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      const backend = RedisEventBus.backend(redis)
      const { settings } = topic({ partitions: 1 })
      const member = (consumer: string): EventBus.Member => ({
        group: "g",
        consumer,
        token: `${consumer} ${"0".repeat(32)}`
      })
      const one = member("one")
      const two = member("two")
      yield* backend.open(settings, "g", ["0-0"])
      const entry = { id: "1", unique: false, key: undefined, headers: undefined, data: "1" }
      const [appended] = yield* backend.append(settings, 0, [entry])
      const position = appended?.position ?? ""
      assert.isTrue(yield* backend.acquire(settings, one, 60_000, 0))
      assert.isFalse(yield* backend.acquire(settings, two, 60_000, 0))
      assert.strictEqual(yield* backend.read(settings, two, 0, 10), "lost")
      const read = yield* backend.read(settings, one, 0, 10)
      assert.strictEqual(typeof read === "object" ? read.value.length : read, 1)
      assert.strictEqual(yield* backend.adopt(settings, two, 0, "0-0", 10), "lost")
      assert.strictEqual(yield* backend.begin(settings, two, 0, position, 7), "lost")
      yield* backend.release(settings, two, 0, [], [{ position, deliveries: 7 }], "0-0")
      const adopted = yield* backend.adopt(settings, one, 0, "0-0", 10)
      assert.deepStrictEqual(
        typeof adopted === "object" ? adopted.value.entries.map((one) => one.deliveries) : adopted,
        [1]
      )
      const { free, kept, lost } = yield* backend.beat(settings, two, 60_000, [0])
      assert.deepStrictEqual([kept, lost, free], [[], [0], []])
      // an answer that was lost: who has the lease already has it
      assert.isTrue(yield* backend.acquire(settings, one, 60_000, 0))
      yield* backend.release(settings, one, 0, [position], [], undefined)
      assert.isTrue(yield* backend.acquire(settings, two, 60_000, 0))
      const left = yield* backend.adopt(settings, two, 0, "0-0", 10)
      assert.deepStrictEqual(typeof left === "object" ? left.value.entries : left, [])
    }).pipe(Effect.provide(real))
  )

  it.scopedLive("what is given back was delivered as often as its reader says, and what it never saw not at all", () =>
    Effect.gen(function* () {
      const backend = RedisEventBus.backend(yield* RedisClient.RedisClient)
      const { settings } = topic({ partitions: 1 })
      const member: EventBus.Member = { group: "g", consumer: "one", token: `one ${"0".repeat(32)}` }
      const entry = { id: "1", unique: false, key: undefined, headers: undefined, data: "1" }
      const read = Effect.map(backend.read(settings, member, 0, 3), (result) =>
        typeof result === "object" ? result.value.map((one) => one.position) : []
      )
      const given = Effect.map(backend.adopt(settings, member, 0, "0-0", 10), (adopted) =>
        typeof adopted === "object" ? adopted.value.entries.map(({ deliveries }) => deliveries) : adopted
      )
      yield* backend.open(settings, "g", ["0-0"])
      yield* backend.append(
        settings,
        0,
        Array.from({ length: 6 }, () => entry)
      )
      assert.isTrue(yield* backend.acquire(settings, member, 60_000, 0))
      const [first = "", second = "", third = ""] = yield* read
      assert.strictEqual((yield* read).length, 3)
      yield* backend.release(settings, member, 0, [first], [{ position: second, deliveries: 4 }], third)
      assert.isTrue(yield* backend.acquire(settings, member, 60_000, 0))
      assert.deepStrictEqual(yield* given, [4, 1, 0, 0, 0])
      yield* backend.release(settings, member, 0, [], [], undefined)
      assert.isTrue(yield* backend.acquire(settings, member, 60_000, 0))
      assert.deepStrictEqual(yield* given, [4, 1, 0, 0, 0])
      // a group that is gone stops nobody from ending
      yield* backend.removeGroup(settings, "g")
      yield* backend.release(settings, member, 0, [], [], "0-0")
      assert.isTrue(yield* backend.acquire(settings, { ...member, token: `two ${"0".repeat(32)}` }, 60_000, 0))
    }).pipe(Effect.provide(real))
  )

  describe("what is kept", () => {
    it.scopedLive("every key has a time to live; those of a partition share a slot, and those of a topic too", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic({ name: "a:b c", retention: { maxLength: 1 } })
        const subscription = yield* eventBus.subscribe(work, { group: "g:1", maxDeliveries: 1, ...fast })(
          ({ event }) => (event.n % 2 === 0 ? Effect.fail("no") : Effect.void)
        )
        for (let n = 1; n <= 20; n++) yield* eventBus.publish(work, { n }, { id: `id ${n}` })
        yield* until(
          "half of them are dead",
          Effect.map(subscription.stats, ({ deadLettered }) => deadLettered === 10)
        )
        yield* eventBus.deadLetters(work, "g:1").replay("all")
        yield* settled(eventBus, work, "g:1")
        yield* pause(300)
        const keys = texts(yield* send("KEYS", "*"))
        for (const kind of ["lease", "dead", "id", "idle", "members"]) {
          assert.isTrue(
            keys.some((key) => key.includes(`}:${kind}`)),
            kind
          )
        }
        for (const key of keys) assert.isAbove(Number(yield* send("PTTL", key)), 0, key)
        for (const partition of [0, 1, 2, 3]) {
          const stream = `events:a:b c:${partition}`
          const own = keys.filter((key) => key.startsWith(`{${stream}}`))
          assert.isAbove(own.length, 2)
          for (const key of own) assert.strictEqual(Slots.ofKey(key), Slots.ofKey(stream))
        }
        assert.strictEqual(Slots.ofKey("{events-topic:a:b c}:members:g:1"), Slots.ofKey("events-topic:a:b c"))
      }).pipe(Effect.provide(real))
    )

    it.scopedLive("a great backlog is trimmed in small steps, and what is needed is not touched", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic({ partitions: 1, retention: { maxLength: 100_000 } })
        yield* eventBus.publishAll(
          work,
          Array.from({ length: 5_000 }, (_, n) => ({ event: { n } }))
        )
        yield* send("CONFIG", "RESETSTAT")
        assert.strictEqual(yield* eventBus.trim(work, { maxLength: 1_234 }), 3_766)
        const statistics = String(yield* send("INFO", "commandstats"))
        const calls = Number(/cmdstat_xtrim:calls=(\d+)/.exec(statistics)?.[1])
        assert.strictEqual(calls, 38)
        yield* eventBus.seek(work, "g", "beginning")
        assert.strictEqual(yield* eventBus.trim(work, { maxLength: 0 }), 0)
        assert.strictEqual((yield* eventBus.stats(work, "g")).lag, 1_234)
      }).pipe(Effect.provide(real))
    )

    it.scopedLive("what a group has not read is counted where the server does not know it", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic({ partitions: 1 })
        const published = yield* eventBus.publishAll(
          work,
          Array.from({ length: 700 }, (_, n) => ({ event: { n } }))
        )
        yield* eventBus.seek(work, "g", { position: published[150]?.position ?? "" })
        const raw = yield* send("XINFO", "GROUPS", "events:work:0")
        assert.include(JSON.stringify(raw), '"lag",null')
        assert.strictEqual((yield* eventBus.stats(work, "g")).lag, 550)
      }).pipe(Effect.provide(real))
    )

    it.scopedLive("what another program writes to the stream is read as it is", () =>
      Effect.gen(function* () {
        const eventBus = yield* EventBus.EventBus
        const work = topic({ partitions: 1 })
        const events = recorder()
        yield* eventBus.subscribe(work, { group: "g", ...fast })(events.handler)
        yield* send("XADD", "events:work:0", "*", "data", '{"n":1}', "key", "k", "id", "from elsewhere")
        yield* send("XADD", "events:work:0", "*", "something", "else")
        yield* events.has(1)
        assert.deepStrictEqual(
          events.seen.map(({ event, id, key }) => [event.n, id, key]),
          [[1, "from elsewhere", "k"]]
        )
        yield* until(
          "the other is dead",
          Effect.map(eventBus.deadLetters(work, "g").count, (count) => count === 1)
        )
      }).pipe(Effect.provide(real))
    )
  })

  it.scopedLive("nothing of it makes a span, a log line or a metric", () =>
    Effect.gen(function* () {
      const eventBus = yield* EventBus.EventBus
      const work = topic()
      yield* Recording.assertSilent(
        Effect.gen(function* () {
          const events = recorder()
          yield* Effect.scoped(
            Effect.gen(function* () {
              yield* eventBus.subscribe(work, { group: "g", maxDeliveries: 2, ...fast })((message) =>
                message.event.n % 10 === 0 ? Effect.fail("no") : events.handler(message)
              )
              for (let n = 1; n <= 100; n++) yield* eventBus.publish(work, { n })
              yield* events.has(90)
              yield* settled(eventBus, work, "g")
            })
          )
          yield* eventBus.deadLetters(work, "g").replay("all")
          yield* eventBus.trim(work, { maxLength: 1 })
          yield* Stream.runDrain(eventBus.stream(work, { follow: false }))
        })
      )
    }).pipe(Effect.provide(real))
  )
})
