import { assert, describe, it } from "@effect/vitest"
import { SessionEvents, SessionStore, SessionTtl } from "@underlay/core"
import { Recording, SessionStoreModel } from "@underlay/core/testing"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import { RedisError } from "@underlay/redis/RedisError"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import {
  Chunk,
  Context,
  Duration,
  Effect,
  Either,
  Layer,
  Logger,
  LogLevel,
  Option,
  Random,
  type Scope,
  Stream
} from "effect"
import { until } from "./RedisClientSupport.ts"
import { advance, client, RedisServer, server, timed } from "./support.ts"

/** The large numbers, for a machine that has the night. */
const nightly = process.env["UNDERLAY_NIGHTLY"] === "1"

const send = (...command: RedisClient.Command) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => redis.send(...command))

const make = (options?: RedisSessionStore.Options) =>
  Effect.flatMap(RedisClient.RedisClient, (redis) => RedisSessionStore.make(redis, options))

const real = client().pipe(Layer.provideMerge(server()))

const test = (
  name: string,
  run: () => Effect.Effect<void, unknown, RedisClient.RedisClient | RedisServer | Scope.Scope>,
  timeout?: number
) => it.scopedLive(name, () => Effect.provide(run(), real), timeout)

/** Another process: a client of its own. */
const another = Effect.map(Layer.build(client()), Context.get(RedisClient.RedisClient))

const increment = (session: SessionStore.Session) => ({ ...session, n: Number(session["n"] ?? 0) + 1 })

/** Does something at a time of this process's clock. */
const at = (now: number) => (effect: Effect.Effect<unknown, SessionStore.SessionStoreError>) =>
  Effect.flatMap(Effect.clock, (clock) =>
    Effect.withClock(effect, {
      ...clock,
      unsafeCurrentTimeMillis: () => now,
      currentTimeMillis: Effect.succeed(now)
    })
  )

const ids = Array.from({ length: 8 }, (_, index) => `s${index}`)
const owners = ["ada", "bob"]

const number = (session: Option.Option<SessionStore.Session>) => Option.map(session, (one) => one["n"])

/** What is heard from now on. */
const listen = (store: SessionStore.Service) =>
  Effect.gen(function* () {
    const events: Array<SessionEvents.SessionEvent> = []
    yield* Effect.forkScoped(Stream.runForEach(store.events, (event) => Effect.sync(() => void events.push(event))))
    yield* Effect.repeatN(Effect.yieldNow(), 50)
    return events
  })

describe.skipIf(Need.missing("redis-server"))(Need.title("RedisSessionStore", "redis-server"), () => {
  const [writers, rounds] = nightly ? [64, 1_000] : [16, 100]
  test(
    `no update is lost: ${writers} writers on four connections, ${rounds} increments each (complaint 6)`,
    () =>
      Effect.gen(function* () {
        const stores = yield* Effect.replicateEffect(
          Effect.flatMap(another, (redis) => RedisSessionStore.make(redis)),
          4
        )
        const [first] = stores
        yield* first?.create("counter", { n: 0 }) ?? Effect.void
        yield* Effect.forEach(
          Chunk.range(0, writers - 1),
          (writer) => Effect.repeatN(stores[writer % 4]?.update("counter", increment) ?? Effect.void, rounds - 1),
          { concurrency: "unbounded", discard: true }
        )
        assert.deepStrictEqual(
          number(yield* (first as SessionStore.Service).get("counter")),
          Option.some(writers * rounds)
        )
      }),
    900_000
  )

  test("no update is lost though every writer's text is longer than what is compared by its hash (complaint 6)", () =>
    Effect.gen(function* () {
      const store = yield* make()
      yield* store.create("large", { n: 0, pad: "ü".repeat(20_000) })
      yield* Effect.forEach(Chunk.range(1, 50), () => store.update("large", increment), { concurrency: "unbounded" })
      assert.deepStrictEqual(number(yield* store.get("large")), Option.some(50))
    }))

  test("two requests that change different fields both win, where a blind write would lose one (complaint 6)", () =>
    Effect.gen(function* () {
      const [one, two] = [yield* make(), yield* Effect.flatMap(another, (redis) => RedisSessionStore.make(redis))]
      yield* one.create("a", { cart: 0, theme: "light" })
      yield* Effect.all(
        [
          one.update("a", (session) => ({ ...session, cart: 1 })),
          two.update("a", (session) => ({ ...session, theme: "dark" }))
        ],
        { concurrency: 2 }
      )
      const { cart, theme } = Option.getOrThrow(yield* one.get("a"))
      assert.deepStrictEqual([cart, theme], [1, "dark"])
    }))

  test("racing sets, updates, touches, rotations and deletions bring no session back (complaint 7)", () =>
    Effect.gen(function* () {
      const stores = [yield* make(), yield* Effect.flatMap(another, (redis) => RedisSessionStore.make(redis))]
      for (let round = 0; round < (nightly ? 2_000 : 100); round++) {
        const id = `s-${round}`
        const [store] = stores
        yield* store?.create(id, { user_id: `u-${round}`, n: 0 }) ?? Effect.void
        yield* Effect.forEach(
          stores.flatMap((one, which) => [
            Effect.ignore(one.set(id, { user_id: `u-${round}`, n: 1 })),
            Effect.ignore(one.update(id, increment)),
            Effect.ignore(one.getAndTouch(id)),
            Effect.ignore(one.extendTtl(id, "1 hour")),
            which === 0 ? one.deleteAllOf(`u-${round}`) : Effect.ignore(one.rotate(id)),
            Effect.ignore(one.set(id, { user_id: `u-${round}`, n: 2 })),
            Effect.ignore(one.update(id, increment, { ttl: "2 hours" }))
          ]),
          (operation) => operation,
          { concurrency: "unbounded", discard: true }
        )
        yield* stores[1]?.deleteAllOf(`u-${round}`) ?? Effect.void
        const left = yield* send("KEYS", "session:*")
        assert.deepStrictEqual(left, [], `round ${round}`)
        for (const one of stores) {
          assert.strictEqual((yield* Effect.flip(one.set(id, {}))).reason, "SessionGone")
          assert.isFalse(yield* one.extendTtl(id))
        }
      }
    }))

  test("a touch, an extension or an update of what is gone leaves no key behind (complaints 7, 9)", () =>
    Effect.gen(function* () {
      for (const options of [{}, { absoluteTtl: "1 hour", touchWhen: 0, adaptiveTtl: SessionTtl.standard }] as const) {
        const store = yield* make(options)
        yield* store.getAndTouch("gone")
        yield* store.getAndTouch("gone", "1 minute")
        yield* store.extendTtl("gone")
        yield* store.update("gone", increment)
        yield* store.rotate("gone")
        assert.deepStrictEqual(yield* send("KEYS", "*"), [])
      }
    }))

  test("an id that changes while it is used: no 'no such key', the session is found under one id (complaint 8)", () =>
    Effect.gen(function* () {
      const store = yield* make()
      for (let round = 0; round < 100; round++) {
        const [from, to] = [`from-${round}`, `to-${round}`]
        yield* store.create(from, { user_id: `u-${round}`, n: 0 }, { ttl: "10 minutes" })
        const failures = yield* Effect.forEach(
          [
            store.rotate(from, to),
            store.getAndTouch(from),
            store.update(from, increment),
            store.extendTtl(from),
            store.set(from, { user_id: `u-${round}`, n: 5 }),
            store.rotate(from)
          ],
          (operation) => Effect.map(Effect.either(operation), Either.getLeft),
          { concurrency: "unbounded" }
        )
        for (const failure of failures) {
          if (Option.isSome(failure)) assert.strictEqual(failure.value.reason, "SessionGone")
        }
        assert.lengthOf(yield* store.sessionsOf(`u-${round}`), 1)
        assert.isFalse(yield* store.exists(from))
      }
    }))

  test("a rotated session takes its old id out of its owner's index", () =>
    Effect.gen(function* () {
      const store = yield* make({ maxSessions: { limit: 5 } })
      yield* store.create("a", { user_id: "u" })
      yield* store.rotate("a", "b")
      // the id, and its place in the row
      assert.deepStrictEqual(yield* send("ZRANGE", "session-owner:u", 0, -1), ["b", "\u0001b"])
    }))

  test("clean-up never removes a session that is written while it runs (complaint 8)", () =>
    Effect.gen(function* () {
      const store = yield* make()
      const ids = Array.from({ length: 200 }, (_, index) => `s-${index}`)
      // corrupt entries that turn into sessions under the clean-up
      yield* Effect.forEach(ids, (id) => send("SET", `session:${id}`, "{", "PX", 60_000), { discard: true })
      const [, report] = yield* Effect.all(
        [
          Effect.forEach(ids, (id) => store.set(id, { user_id: "u" }), { concurrency: 5, discard: true }),
          store.cleanUp()
        ],
        { concurrency: 2 }
      )
      assert.isAtMost(report.corrupt, 200)
      assert.lengthOf(yield* store.sessionsOf("u"), 200)
      assert.strictEqual((yield* store.cleanUp()).corrupt, 0)
    }))

  test("clean-up: corrupt texts, other types, dead index entries and sessions without an end; other keys stay", () =>
    Effect.gen(function* () {
      const store = yield* make()
      yield* store.set("good", { user_id: "u" })
      yield* send("SET", "session:text", "{")
      yield* send("SET", "session:number", "12")
      yield* send("RPUSH", "session:list", "1")
      const redis = yield* RedisClient.RedisClient
      yield* redis.send("SET", "session:binary", Uint8Array.of(0xff, 0xfe, 0x7b))
      yield* send("SET", "session:immortal", '{"user_id":"v"}')
      yield* send("SET", "{session:good}:gone-too", "not ours")
      yield* send("SET", "session:{not}:ours", "{")
      yield* send("SET", "sessions", "not ours")
      for (let n = 0; n < 30; n++) yield* send("ZADD", "session-owner:u", 1_000 + n, `dead-${n}`)
      yield* send("SET", "session-owner:odd", "not an index")
      const events = yield* listen(store)
      const report = yield* store.cleanUp()
      assert.deepStrictEqual(
        { corrupt: report.corrupt, orphaned: report.orphaned, immortal: report.immortal, cursor: report.cursor },
        { corrupt: 4, orphaned: 30, immortal: 1, cursor: undefined }
      )
      assert.isAbove(Number(yield* send("PTTL", "session:immortal")), 1_700_000)
      assert.strictEqual(yield* send("ZCARD", "session-owner:u"), 1)
      assert.isTrue(yield* store.exists("good"))
      for (const key of ["{session:good}:gone-too", "session:{not}:ours", "sessions", "session-owner:odd"]) {
        assert.strictEqual(yield* send("EXISTS", key), 1, key)
      }
      yield* Effect.repeatN(Effect.yieldNow(), 50)
      assert.deepStrictEqual(
        events.map(({ at: _, ...event }) => event),
        [{ _tag: "CleanedUp", scanned: report.scanned, corrupt: 4, orphaned: 30, immortal: 1 }]
      )
    }))

  test("every key that the store writes has a time to live, whatever it did (complaint 9)", () =>
    Effect.gen(function* () {
      for (const options of [{}, { absoluteTtl: "1 hour", maxSessions: { limit: 2 } }] as const) {
        const store = yield* make(options)
        yield* store.create("a", { user_id: "u" })
        yield* store.set("b", { user_id: "u" }, { ttl: "1 minute" })
        yield* store.create("c", { user_id: "u" })
        yield* store.update("c", increment)
        yield* store.getAndTouch("c", "5 hours")
        yield* store.extendTtl("c")
        yield* store.rotate("c")
        yield* store.delete("b")
        yield* store.set("d", {})
        yield* store.update("d", (session) => ({ ...session, user_id: "v" }))
        const keys = yield* send("KEYS", "*")
        assert.isAbove(Array.isArray(keys) ? keys.length : 0, 5)
        for (const key of Array.isArray(keys) ? keys.map(String) : []) {
          assert.isAbove(Number(yield* send("PTTL", key)), 0, key)
        }
        yield* send("FLUSHALL")
      }
    }))

  test("a session that another program left without an end gets one by the first touch (complaint 9)", () =>
    Effect.gen(function* () {
      const store = yield* make()
      yield* send("SET", "session:a", '{"n": 1}')
      yield* send("SET", "session:b", '{"n": 1}')
      yield* store.getAndTouch("a")
      yield* store.extendTtl("b", "1 minute")
      assert.isAbove(Number(yield* send("PTTL", "session:a")), 1_700_000)
      assert.isAbove(Number(yield* send("PTTL", "session:b")), 50_000)
    }))

  test("times to live are whole milliseconds that the server takes, and never drift by touching (complaint 9)", () =>
    Effect.gen(function* () {
      const store = yield* make({ touchWhen: 0 })
      for (const ttl of ["1500 micros", "90 minutes", 1_234.567, "24855 days", "36600 days"] as const) {
        yield* store.set("a", {}, { ttl })
        yield* store.getAndTouch("a", ttl)
        yield* store.extendTtl("a", ttl)
      }
      yield* store.set("b", {})
      for (let round = 0; round < 100; round++) yield* store.getAndTouch("b")
      const left = Number(yield* send("PTTL", "session:b"))
      assert.isTrue(left > 1_790_000 && left <= 1_800_000)
    }))

  test("a touch that does not matter writes nothing", () =>
    Effect.gen(function* () {
      const store = yield* make({ touchWhen: 0.5 })
      yield* store.set("a", {})
      yield* store.getAndTouch("a")
      const writes = Effect.map(send("INFO", "commandstats"), (info) =>
        Number(/cmdstat_pexpire:calls=(\d+)/.exec(String(info))?.[1] ?? 0)
      )
      const before = yield* writes
      for (let round = 0; round < 50; round++) yield* store.getAndTouch("a")
      assert.strictEqual((yield* writes) - before, 0)
      yield* send("PEXPIRE", "session:a", 800_000)
      yield* store.getAndTouch("a")
      assert.isAbove(Number(yield* send("PTTL", "session:a")), 1_700_000)
    }))

  test("a set of what was another owner's meanwhile is done once: an update that follows it is not lost (complaint 6)", () =>
    Effect.gen(function* () {
      const other = yield* Effect.flatMap(another, (redis) => RedisSessionStore.make(redis))
      const redis = yield* RedisClient.RedisClient
      let isArmed = false
      const store = yield* RedisSessionStore.make({
        ...redis,
        send: (...command) =>
          Effect.tap(redis.send(...command), () => {
            if (!isArmed || command[0] !== "SET") return Effect.void
            isArmed = false
            return Effect.orDie(other.update("a", increment))
          })
      })
      yield* store.set("a", { user_id: "u", n: 0 })
      yield* other.set("a", { user_id: "v", n: 0 })
      isArmed = true
      yield* store.set("a", { user_id: "u", n: 1 })
      assert.isFalse(isArmed)
      assert.deepStrictEqual(number(yield* store.get("a")), Option.some(2))
      assert.lengthOf(yield* store.sessionsOf("u"), 1)
      assert.lengthOf(yield* store.sessionsOf("v"), 0)
    }))

  test("a session that is written again and again costs one plain command, and is safe all the same", () =>
    Effect.gen(function* () {
      const [mine, other] = [yield* make(), yield* Effect.flatMap(another, (redis) => RedisSessionStore.make(redis))]
      const ada = { user_id: "ada", n: 1 }
      yield* mine.set("a", ada)
      yield* mine.set("b", { n: 1 })
      const calls = Effect.map(send("INFO", "commandstats"), (info) =>
        Number(/cmdstat_evalsha:calls=(\d+)/.exec(String(info))?.[1] ?? 0)
      )
      const before = yield* calls
      yield* mine.set("a", { ...ada, n: 2 }, { ttl: "1 hour" })
      yield* mine.set("b", { n: 2 })
      assert.strictEqual(yield* calls, before, "no script")
      assert.deepStrictEqual(number(yield* other.get("a")), Option.some(2))
      assert.isAbove(Number(yield* send("PTTL", "session:a")), 3_500_000)
      // deleted, then created, elsewhere
      yield* other.deleteMany(["a", "b"])
      for (const [id, session] of [["a", ada] as const, ["b", { n: 3 }] as const]) {
        assert.strictEqual((yield* Effect.flip(mine.set(id, session))).reason, "SessionGone")
        assert.isFalse(yield* mine.exists(id))
      }
      yield* other.create("a", ada)
      // it becomes another's elsewhere, and then ada's again: sign-out finds it
      yield* mine.set("a", ada)
      yield* other.update("a", (session) => ({ ...session, user_id: "grace" }))
      yield* mine.set("a", ada)
      assert.deepStrictEqual(
        (yield* other.sessionsOf("ada")).map((one) => one.id),
        ["a"]
      )
      // another type of value is written over
      yield* send("DEL", "session:a")
      yield* send("SADD", "session:a", "x")
      yield* mine.set("a", ada)
      assert.deepStrictEqual(number(yield* mine.get("a")), Option.some(1))
      // what ran out is written anew
      yield* send("DEL", "session:a")
      yield* mine.set("a", ada)
      assert.isTrue(yield* other.exists("a"))
    }))

  test("the index of sessions that are written again and again comes back though it was lost", () =>
    Effect.gen(function* () {
      const store = yield* make()
      const write = store.set("a", { user_id: "ada" })
      yield* at(1_000_000)(write)
      yield* send("DEL", "session-owner:ada")
      yield* at(1_059_000)(write)
      assert.strictEqual(yield* send("EXISTS", "session-owner:ada"), 0, "within a minute it is trusted")
      yield* at(1_061_000)(write)
      assert.strictEqual(yield* store.deleteAllOf("ada"), 1)
    }))

  test("a set of what was another owner's is in the index of its own, though the answer was lost or nobody waited", () =>
    Effect.gen(function* () {
      const other = yield* Effect.flatMap(another, (redis) => RedisSessionStore.make(redis))
      const redis = yield* RedisClient.RedisClient
      const lost = new RedisError({
        reason: "Unavailable",
        outcome: "unknown",
        method: "SET",
        description: "the connection was lost"
      })
      let loses: "nothing" | "answer" | "interest" = "nothing"
      const store = yield* RedisSessionStore.make({
        ...redis,
        send: (...command) => {
          const how = command[0] === "SET" ? loses : "nothing"
          if (how === "nothing") return redis.send(...command)
          loses = "nothing"
          return Effect.zipRight(redis.send(...command), how === "answer" ? Effect.fail(lost) : Effect.interrupt)
        }
      })
      const steal: Record<string, (id: string) => Effect.Effect<unknown, SessionStore.SessionStoreError>> = {
        update: (id) => other.update(id, (session) => ({ ...session, user_id: "thief" })),
        // the id dies, and is made anew for another
        rotate: (id) => Effect.zipRight(other.rotate(id), other.create(id, { user_id: "thief" }))
      }
      for (const how of ["answer", "interest"] as const) {
        for (const [by, take] of Object.entries(steal)) {
          const [id, owner] = [`${how}-${by}`, `owner-${how}-${by}`]
          yield* store.set(id, { user_id: owner, n: 0 })
          yield* take(id)
          yield* Effect.exit(other.deleteMany((yield* other.sessionsOf(owner)).map((one) => one.id)))
          loses = how
          yield* Effect.exit(store.set(id, { user_id: owner, n: 1 }))
          assert.strictEqual(loses, "nothing")
          // the same once more, as a caller does whose answer was lost
          yield* store.set(id, { user_id: owner, n: 1 })
          assert.strictEqual(yield* other.deleteAllOf(owner), 1, id)
        }
      }
    }))

  test("a set beside one whose writer died says no more than what holds: the session is in its owner's index", () =>
    Effect.gen(function* () {
      const [one, thief] = [yield* make(), yield* Effect.flatMap(another, (redis) => RedisSessionStore.make(redis))]
      const redis = yield* RedisClient.RedisClient
      let isDead = false
      const dying = yield* RedisSessionStore.make({
        ...redis,
        send: (...command) => (isDead ? Effect.zipRight(redis.send(...command), Effect.never) : redis.send(...command))
      })
      const ada = { user_id: "ada" }
      yield* one.set("a", ada)
      yield* dying.set("a", ada)
      yield* thief.update("a", (session) => ({ ...session, user_id: "eve" }))
      isDead = true
      const fiber = yield* Effect.forkScoped(dying.set("a", ada))
      yield* until(Effect.map(one.get("a"), (found) => Option.exists(found, (session) => session["user_id"] === "ada")))
      yield* one.set("a", ada)
      assert.isNull(fiber.unsafePoll())
      assert.strictEqual(yield* thief.deleteAllOf("ada"), 1)
    }))

  test("the index of sessions that are updated again and again comes back though it was lost", () =>
    Effect.gen(function* () {
      const store = yield* make()
      yield* at(1_000_000)(store.set("a", { user_id: "ada" }))
      yield* send("DEL", "session-owner:ada")
      yield* at(1_059_000)(store.update("a", increment))
      assert.strictEqual(yield* send("EXISTS", "session-owner:ada"), 0, "within a minute it is trusted")
      yield* at(1_061_000)(store.update("a", increment))
      assert.strictEqual(yield* store.deleteAllOf("ada"), 1)
    }))

  for (const topology of ["standalone", "cluster"] as const) {
    test(`an eviction that fails half way leaves nobody outside the limit, nor outside a sign-out (${topology})`, () =>
      Effect.gen(function* () {
        const redis = yield* RedisClient.RedisClient
        const away = new RedisError({
          reason: "Unavailable",
          outcome: "not-sent",
          method: "EVALSHA",
          description: "the node is away"
        })
        let isAway = false
        const isDeletion = (step: RedisClient.Step) => "script" in step && step.script.name === "session.delete"
        const store = yield* RedisSessionStore.make(
          {
            ...redis,
            topology,
            sendMany: (steps) =>
              isAway && steps.some(isDeletion)
                ? Effect.succeed(steps.map(() => Either.left(away)))
                : redis.sendMany(steps)
          },
          { maxSessions: { limit: 2 } }
        )
        yield* store.create("a", { user_id: "u" })
        yield* store.create("b", { user_id: "u" })
        isAway = true
        yield* Effect.exit(store.create("c", { user_id: "u" }))
        isAway = false
        yield* store.create("d", { user_id: "u" })
        yield* store.create("e", { user_id: "u" })
        const alive = yield* Effect.filter(["a", "b", "c", "d", "e"], (id) => store.exists(id))
        assert.deepStrictEqual(alive, ["d", "e"])
        assert.strictEqual(yield* store.deleteAllOf("u"), 2)
        assert.deepStrictEqual(yield* send("KEYS", "session:*"), [])
      }))
  }

  for (const topology of ["standalone", "cluster"] as const) {
    for (const maxSessions of [undefined, { limit: 3 }, { limit: 3, onLimit: "reject" as const }]) {
      const rule = maxSessions === undefined ? "no limit" : (maxSessions.onLimit ?? "evict-oldest")
      test(`whatever races, whoever is interrupted: every live session is in its owner's index (${topology}, ${rule})`, () =>
        Effect.gen(function* () {
          const clients = [yield* RedisClient.RedisClient, yield* another]
          const stores = yield* Effect.forEach(clients, (redis) =>
            RedisSessionStore.make({ ...redis, topology }, { maxSessions })
          )
          const random = Random.make(`${topology} ${rule}`)
          const pick = <A>(all: ReadonlyArray<A>) =>
            Effect.map(random.nextIntBetween(0, all.length), (at) => all[at] as A)
          for (let round = 0; round < (nightly ? 500 : 25); round++) {
            yield* send("FLUSHALL")
            const operations = yield* Effect.replicateEffect(
              Effect.gen(function* () {
                const store = yield* pick(stores)
                const [id, to, owner] = [yield* pick(ids), yield* pick(ids), yield* pick(owners)]
                // a set that nobody waited for promises nothing to the index
                const [operation, canLeave] = yield* pick<
                  readonly [Effect.Effect<unknown, SessionStore.SessionStoreError>, boolean]
                >([
                  [store.set(id, { user_id: owner }), false],
                  [store.set(id, { user_id: owner, n: 1 }), false],
                  [store.set(id, {}), true],
                  [store.create(id, { user_id: owner }), true],
                  [store.update(id, increment), true],
                  [store.update(id, (session) => ({ ...session, user_id: owner })), true],
                  [store.getAndTouch(id), true],
                  [store.rotate(id, to), true],
                  [store.delete(id), true]
                ])
                // now and then nobody waits for the answer
                const leaves = canLeave && (yield* random.nextIntBetween(0, 5)) === 0
                const done = Effect.exit(operation)
                return { run: leaves ? Effect.race(done, Effect.yieldNow()) : done }
              }),
              60
            )
            yield* Effect.forEach(operations, ({ run }) => run, { concurrency: 6, discard: true })
            for (const owner of owners) {
              const alive = yield* Effect.filter(ids, (id) =>
                Effect.map(stores[0]?.get(id) ?? Effect.succeedNone, (session) =>
                  Option.exists(session, (one) => one["user_id"] === owner)
                )
              )
              const listed = (yield* stores[1]?.sessionsOf(owner) ?? Effect.succeed([])).map((one) => one.id)
              assert.deepStrictEqual([...listed].sort(), [...alive].sort(), `round ${round}`)
              if (maxSessions !== undefined) assert.isAtMost(alive.length, maxSessions.limit, `round ${round}`)
            }
          }
        }))
    }
  }

  test("the clock of this process decides nothing about the absolute time: an hour ahead, an hour behind", () =>
    Effect.gen(function* () {
      for (const shift of [0, Date.now() - 3_600_000, Date.now() + 3_600_000]) {
        const store = yield* make({ absoluteTtl: "2 hours" })
        const id = `s-${shift}`
        yield* Effect.gen(function* () {
          yield* store.create(id, {}, { ttl: "10 hours" })
          yield* store.getAndTouch(id, "10 hours")
        }).pipe(
          Effect.withClock({
            ...(yield* Effect.clock),
            unsafeCurrentTimeMillis: () => shift,
            currentTimeMillis: Effect.succeed(shift)
          })
        )
        const left = Number(yield* send("PTTL", `session:${id}`))
        assert.isTrue(left > 7_190_000 && left <= 7_200_000, `${shift}: ${left}`)
        const created = Date.parse(String(Option.getOrThrow(yield* store.get(id))["created_at"]))
        assert.isBelow(Math.abs(created - Date.now()), 10_000)
      }
    }))

  test("a session as a Python program writes it is read, touched and changed; what is written it can read", () =>
    Effect.gen(function* () {
      // redis.set("session:abc", json.dumps(value), ex=1800), with datetime.utcnow().isoformat()
      const python =
        '{"user_id": "user_123", "created_at": "2025-01-15T10:30:45.123456", ' +
        '"last_activity": "2025-01-15T10:35:22.456789", "context": {"current_phase": "analysis", ' +
        '"uploaded_files": ["log1.txt", "m\\u00e9trics.json"], "preferences": {"auto_execute": false}}, "score": 1.0}'
      yield* send("SET", "session:abc", python, "EX", 1_800)
      const store = yield* make({ adaptiveTtl: SessionTtl.standard })
      const session = Option.getOrThrow(yield* store.get("abc"))
      assert.deepStrictEqual(session["context"], {
        current_phase: "analysis",
        uploaded_files: ["log1.txt", "métrics.json"],
        preferences: { auto_execute: false }
      })
      assert.deepStrictEqual(
        SessionTtl.lastActivity(session),
        Option.some(Date.parse("2025-01-15T10:35:22.456Z")),
        "UTC, whatever this machine's zone is"
      )
      // idle for long: a quarter of an hour
      yield* store.getAndTouch("abc")
      const left = Number(yield* send("PTTL", "session:abc"))
      assert.isTrue(left > 890_000 && left <= 900_000)
      assert.deepStrictEqual(
        (yield* store.sessionsOf("user_123")).map((one) => one.id),
        ["abc"],
        "a touch puts it into its owner's index"
      )
      yield* store.update("abc", (before) => ({ ...before, n: 1 }))
      const text = String(yield* send("GET", "session:abc"))
      assert.deepStrictEqual(JSON.parse(text), { ...JSON.parse(python), n: 1 })
      assert.strictEqual(yield* send("TYPE", "session:abc"), "string", "nothing but JSON at the key")
      yield* store.set("new", { user_id: "user_123" })
      assert.match(
        String(yield* send("GET", "session:new")),
        /^\{"user_id":"user_123","last_activity":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"\}$/
      )
      // a program that knows nothing of versions changes it between our read and our write
      let times = 0
      const changed = yield* store.update("abc", (before) => {
        times++
        return { ...before, n: 2 }
      })
      assert.isTrue(Option.isSome(changed))
      assert.strictEqual(times, 1)
      yield* send("SET", "session:abc", python, "EX", 1_800)
      assert.strictEqual(yield* send("DEL", "session:abc"), 1)
      assert.isTrue(Option.isNone(yield* store.get("abc")))
    }))

  test("a write by another program between the read and the write of an update is not lost", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      let interfered = false
      const store = yield* RedisSessionStore.make({
        ...redis,
        run: (script, keys, args) => {
          if (script.name !== "session.update" || interfered) return redis.run(script, keys, args)
          interfered = true
          return Effect.zipRight(
            Effect.orDie(redis.send("SET", "session:a", '{"n": 10, "theirs": true}', "PX", 60_000)),
            redis.run(script, keys, args)
          )
        }
      })
      yield* store.create("a", { n: 0 })
      const updated = Option.getOrThrow(yield* store.update("a", increment))
      assert.deepStrictEqual([updated["n"], updated["theirs"]], [11, true])
    }))

  test("one round trip an operation, two for an update and a rotation", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      const store = yield* make()
      const warm = Effect.gen(function* () {
        yield* store.create("warm", { user_id: "w" })
        yield* store.set("warm", { user_id: "w" })
        yield* store.update("warm", increment)
        yield* store.update("warm", (session) => ({ ...session, user_id: "x" }))
        yield* store.getAndTouch("warm")
        yield* store.extendTtl("warm")
        yield* store.delete(Option.getOrThrow(yield* store.rotate("warm")))
      })
      // the server learns the scripts
      yield* warm
      yield* store.create("a", { user_id: "u" })
      const cost = <A, E>(operation: Effect.Effect<A, E>) =>
        Effect.gen(function* () {
          const before = (yield* redis.stats).sent
          yield* operation
          return (yield* redis.stats).sent - before
        })
      assert.deepStrictEqual(
        yield* Effect.all({
          create: cost(store.create("b", { user_id: "u" })),
          set: cost(store.set("a", { user_id: "u", n: 0 })),
          get: cost(store.get("a")),
          getAndTouch: cost(store.getAndTouch("a")),
          "getAndTouch with a time": cost(store.getAndTouch("a", "1 hour")),
          exists: cost(store.exists("a")),
          extendTtl: cost(store.extendTtl("a")),
          update: cost(store.update("a", increment)),
          "update of the owner": cost(store.update("a", (session) => ({ ...session, user_id: "v" }))),
          rotate: cost(store.rotate("a", "c")),
          delete: cost(store.delete("c"))
        }),
        {
          create: 1,
          set: 1,
          get: 1,
          getAndTouch: 1,
          "getAndTouch with a time": 1,
          exists: 1,
          extendTtl: 1,
          update: 2,
          "update of the owner": 2,
          rotate: 2,
          delete: 1
        }
      )
    }))

  test("deleteMany and sign-out go in pipelines: hundreds of sessions in a few turns of a slow wire", () =>
    Effect.gen(function* () {
      const proxy = yield* FaultProxy.make(yield* RedisServer)
      const redis = Context.get(
        yield* Layer.build(RedisClient.layer({ host: "127.0.0.1", port: proxy.port, commandTimeout: "10 seconds" })),
        RedisClient.RedisClient
      )
      const store = yield* RedisSessionStore.make(redis)
      const ids = Array.from({ length: 800 }, (_, index) => `s-${index}`)
      yield* Effect.forEach(ids, (id) => store.set(id, { user_id: "u" }), { concurrency: 50, discard: true })
      yield* proxy.latency(20)
      const [count, together] = yield* timed(store.deleteMany(ids.slice(0, 400)))
      const [rest, everywhere] = yield* timed(store.deleteAllOf("u"))
      assert.deepStrictEqual([count, rest], [400, 400])
      // one after the other would take eight seconds each
      assert.isBelow(together, 2_000)
      assert.isBelow(everywhere, 2_000)
    }))

  test("braces and patterns in owners are letters", () =>
    Effect.gen(function* () {
      const store = yield* make({ maxSessions: { limit: 2 } })
      for (const owner of ["a{b}c", "}x{", "*", "ü\u{1F511}", "a b"]) {
        yield* Effect.forEach(["1", "2", "3"], (n) =>
          store.create(`${Buffer.from(owner).toString("hex")}-${n}`, { user_id: owner })
        )
        assert.lengthOf(yield* store.sessionsOf(owner), 2, owner)
        assert.strictEqual(yield* store.deleteAllOf(owner), 2)
      }
    }))

  test("the limit counts sessions, not index entries: expired and deleted ones, and those of others, make room", () =>
    Effect.gen(function* () {
      const store = yield* make({ maxSessions: { limit: 2, onLimit: "reject" } })
      for (let n = 0; n < 5; n++) yield* send("ZADD", "session-owner:u", 1_000 + n, `old-${n}`)
      yield* store.create("theirs", { user_id: "u" })
      // another program gives it to another owner
      yield* send("SET", "session:theirs", '{"user_id":"v"}', "PX", 60_000)
      yield* store.create("a", { user_id: "u" })
      yield* store.create("b", { user_id: "u" })
      assert.strictEqual((yield* Effect.flip(store.create("c", { user_id: "u" }))).reason, "LimitReached")
      yield* store.delete("a")
      assert.isTrue(yield* store.create("c", { user_id: "u" }))
      assert.isTrue(yield* store.exists("theirs"))
    }))

  test("an owner by number counts as its text, also for the limit", () =>
    Effect.gen(function* () {
      const store = yield* make({ maxSessions: { limit: 1 } })
      yield* store.create("a", { user_id: 123_456_789_012 })
      yield* store.create("b", { user_id: "123456789012" })
      assert.deepStrictEqual(
        (yield* store.sessionsOf("123456789012")).map((one) => one.id),
        ["b"]
      )
    }))

  test("events of expired sessions come from the server, once each, where it is told to say them", () =>
    Effect.gen(function* () {
      const refused = yield* Effect.flip(make({ expiredEvents: true }))
      assert.strictEqual(refused.reason, "InvalidOptions")
      assert.include(refused.message, "notify-keyspace-events")
      yield* send("CONFIG", "SET", "notify-keyspace-events", "Ex")
      const store = yield* make({ expiredEvents: true })
      const events = yield* listen(store)
      yield* until(
        Effect.map(
          Effect.flatMap(RedisClient.RedisClient, (redis) => redis.stats),
          (stats) => stats.listeners > 0
        )
      )
      yield* until(
        Effect.map(
          send("PUBSUB", "NUMSUB", "__keyevent@0__:expired"),
          (reply) => Array.isArray(reply) && reply[1] === 1
        )
      )
      yield* store.create("mine", { user_id: "u" }, { ttl: "50 millis" })
      yield* send("SET", "session:theirs", "{}", "PX", 50)
      yield* send("SET", "other", "1", "PX", 50)
      const expired = () => events.filter((event) => event._tag === "Expired")
      yield* until(Effect.sync(() => expired().length >= 2))
      yield* store.get("mine")
      yield* store.exists("mine")
      yield* Effect.repeatN(Effect.yieldNow(), 100)
      assert.deepStrictEqual(
        expired()
          .map(({ at: _, ...event }) => event)
          .sort((a, b) => (a.id < b.id ? -1 : 1)),
        [
          { _tag: "Expired", id: "mine", owner: "u", ttl: 50 },
          { _tag: "Expired", id: "theirs" }
        ]
      )
    }))

  test("with the log layer: created and expired are information, corruption an error; without it nothing is said", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const logger = Logger.make(
        ({ logLevel, message }) =>
          void lines.push(`${logLevel.label} ${String(Array.isArray(message) ? message[0] : message)}`)
      )
      const redis = yield* RedisClient.RedisClient
      const life = Effect.gen(function* () {
        const store = yield* SessionStore.SessionStore
        yield* store.create("a", { user_id: "u" })
        yield* Effect.provideService(advance(Duration.minutes(31)), RedisClient.RedisClient, redis)
        yield* store.get("a")
        yield* redis.send("SET", "session:bad", "{", "PX", 60_000)
        yield* store.get("bad")
        yield* Effect.repeatN(Effect.yieldNow(), 50)
      })
      const store = RedisSessionStore.layer().pipe(Layer.provide(Layer.succeed(RedisClient.RedisClient, redis)))
      const heard = (layer: Layer.Layer<SessionStore.SessionStore, SessionStore.SessionStoreError>) =>
        life.pipe(
          Effect.provide(layer),
          Logger.withMinimumLogLevel(LogLevel.All),
          Effect.provide(Logger.replace(Logger.defaultLogger, logger)),
          Effect.zipRight(Effect.sync(() => lines.splice(0)))
        )
      assert.deepStrictEqual(yield* heard(SessionEvents.layerLog.pipe(Layer.provideMerge(store))), [
        "INFO session created",
        "INFO session expired",
        "ERROR session data corruption"
      ])
      assert.deepStrictEqual(yield* heard(store), ["WARN a stored session is corrupt and counts as absent"])
    }))

  test("clean-up, limits, touches by policy and rotations are silent, too", () =>
    Effect.gen(function* () {
      const store = yield* make({ absoluteTtl: "1 hour", adaptiveTtl: SessionTtl.standard, maxSessions: { limit: 2 } })
      yield* Recording.assertSilent(
        Effect.forEach(["a", "b", "c", "d"], (id) =>
          Effect.gen(function* () {
            yield* store.create(id, { user_id: "u" })
            yield* store.getAndTouch(id)
            yield* store.rotate(id)
            yield* store.cleanUp()
            yield* store.deleteAllOf("u")
          })
        )
      )
    }))

  test("scripts that the server forgot are sent again: with limits and absolute times, too", () =>
    Effect.gen(function* () {
      const store = yield* make({ absoluteTtl: "1 hour", maxSessions: { limit: 1 } })
      for (let round = 0; round < 3; round++) {
        yield* send("SCRIPT", "FLUSH")
        yield* store.create(`s-${round}`, { user_id: "u", n: 0 })
        yield* send("SCRIPT", "FLUSH")
        yield* store.update(`s-${round}`, increment)
        yield* send("SCRIPT", "FLUSH")
        yield* store.getAndTouch(`s-${round}`)
        yield* send("SCRIPT", "FLUSH")
        assert.isTrue(Option.isSome(yield* store.rotate(`s-${round}`, `t-${round}`)))
      }
      assert.deepStrictEqual(
        (yield* store.sessionsOf("u")).map((one) => one.id),
        ["t-2"]
      )
    }))

  test("failures of the new operations are typed, name them, and hold no id", () =>
    Effect.gen(function* () {
      const redis = yield* RedisClient.RedisClient
      const lost = new RedisError({
        reason: "Unavailable",
        outcome: "unknown",
        method: "SCAN",
        description: "the connection was lost"
      })
      const broken: RedisClient.Service = {
        ...redis,
        run: () => Effect.fail(lost),
        send: () => Effect.fail(lost),
        nodes: Effect.fail(lost)
      }
      const store = yield* RedisSessionStore.make(broken, { maxSessions: { limit: 1 }, absoluteTtl: "1 hour" })
      for (const [method, operation] of Object.entries({
        cleanUp: store.cleanUp(),
        create: store.create("secret", { user_id: "u" }),
        getAndTouch: store.getAndTouch("secret"),
        extendTtl: store.extendTtl("secret")
      })) {
        const error = yield* Effect.flip(operation as Effect.Effect<unknown, SessionStore.SessionStoreError>)
        assert.deepStrictEqual([error.method, error.reason, error.outcome], [method, "Unavailable", "unknown"])
        assert.notInclude(JSON.stringify(error), "secret")
        assert.strictEqual(error.isRetryable, method !== "create")
      }
    }))

  it.scoped(
    "does what the model does, against a real server",
    () =>
      Effect.provide(
        SessionStoreModel.property({
          store: make({ touchWhen: 0.05 }),
          advance,
          touchWhen: 0.05,
          runs: nightly ? 500 : 20
        }),
        real
      ),
    600_000
  )
})
