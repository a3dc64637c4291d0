/**
 * What every event bus must do.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as EventBus from "../events/EventBus.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What an adapter may have beyond the port: `plant`, that a test can put any text where an event is kept.
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "plant"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /** Lets time pass for the bus and for its consumers, by `TestClock`; for a store of its own by ageing its keys too. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  /** Lets what runs beside the test go on for a moment, such as consumers that wait for a real store. */
  readonly settle: Effect.Effect<void, unknown, R>
  /** Adds an entry with that text as its event to the first partition of a topic: the capability `plant`. */
  readonly plant?: ((topic: EventBus.TopicSettings, text: string) => Effect.Effect<void, unknown, R>) | undefined
}

const Event = Schema.Struct({ n: Schema.Number, of: Schema.optional(Schema.String) })
type Event = typeof Event.Type

/** What a handler can fail with. */
class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {}

const seconds = Duration.seconds

/**
 * The suite. Every case has topics of its own, so all of them can run on one bus.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<Capability, EventBus.EventBus | R> => {
  const { advance, settle } = options
  const plant = options.plant ?? (() => Effect.dieMessage("the capability `plant` needs the option `plant`"))

  type Body = (
    bus: EventBus.Service,
    topic: (options?: Partial<EventBus.TopicOptions<Event, Event>>) => EventBus.Topic<Event, Event>
  ) => Effect.Effect<void, unknown, R | Scope.Scope>

  const body = (run: Body): Effect.Effect<void, unknown, EventBus.EventBus | R> =>
    Effect.scoped(
      Effect.flatMap(EventBus.EventBus, (bus) =>
        Effect.flatMap(SessionStore.makeId, (id) =>
          run(bus, (topicOptions) => EventBus.topic({ name: `t-${id}`, schema: Event, partitions: 4, ...topicOptions }))
        )
      )
    )
  const scenario = (name: string, run: Body) => Suite.test(name, body(run))

  /** Waits for what others do, as long as they need no time to pass. */
  const until = (what: string, condition: Effect.Effect<boolean, unknown, R>): Effect.Effect<void, unknown, R> => {
    const look = (left: number): Effect.Effect<void, unknown, R> =>
      Effect.flatMap(condition, (holds) => {
        if (holds) return Effect.void
        return left === 0 ? Suite.isTrue(what, false) : Effect.zipRight(settle, look(left - 1))
      })
    return look(2_000)
  }
  const quiet = Effect.repeatN(settle, 5)

  /** A handler that writes down what it gets. */
  const recorder = () => {
    const seen: Array<EventBus.Message<Event>> = []
    return {
      seen,
      numbers: () => seen.map((message) => message.event.n),
      handler: (message: EventBus.Message<Event>) =>
        Effect.sync(() => {
          seen.push(message)
        }),
      has: (count: number) =>
        until(
          `${count} events`,
          Effect.sync(() => seen.length >= count)
        )
    }
  }

  /** A subscription in a scope of its own, and what ends it. */
  const subscribed = <E, R2>(
    bus: EventBus.Service,
    topic: EventBus.Topic<Event, Event>,
    subscribe: EventBus.SubscribeOptions,
    handler: (message: EventBus.Message<Event>) => Effect.Effect<unknown, E, R2>
  ) =>
    Effect.gen(function* () {
      const scope = yield* Effect.acquireRelease(Scope.make(), (scope) => Scope.close(scope, Exit.void))
      const subscription = yield* Scope.extend(bus.subscribe(topic, subscribe)(handler), scope)
      return { ...subscription, close: Scope.close(scope, Exit.void) }
    })

  const pendingIs = (bus: EventBus.Service, topic: EventBus.Topic<Event, Event>, group: string, count: number) =>
    until(
      `${count} pending`,
      Effect.map(bus.stats(topic, group), ({ pending }) => pending === count)
    )

  const collect = (
    bus: EventBus.Service,
    topic: EventBus.Topic<Event, Event>,
    options: EventBus.StreamOptions
  ): Effect.Effect<ReadonlyArray<EventBus.Message<Event>>, EventBus.EventBusError> =>
    Effect.map(Stream.runCollect(bus.stream(topic, options)), Chunk.toReadonlyArray)

  const range = (from: number, to: number): ReadonlyArray<number> =>
    Array.from({ length: to - from + 1 }, (_, index) => from + index)

  return Suite.make<Capability, EventBus.EventBus | R>("EventBus", [
    scenario("an event is handed to every group once, with all that was published with it", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic()
        const one = recorder()
        const two = recorder()
        yield* bus.subscribe(topic, { group: "one" })(one.handler)
        yield* bus.subscribe(topic, { group: "two" })(two.handler)
        const published = yield* bus.publish(
          topic,
          { n: 1, of: "grüße \u{1F30D}" },
          { key: "a b", id: "first", headers: { "x-trace": "1", __proto__x: "ü" } }
        )
        yield* Suite.equal("the id", published.id, "first")
        yield* Suite.equal("no duplicate", published.duplicate, false)
        yield* one.has(1)
        yield* two.has(1)
        yield* quiet
        yield* Suite.equal("once", [one.seen.length, two.seen.length], [1, 1])
        for (const [message] of [one.seen, two.seen]) {
          yield* Suite.equal("the event", message?.event, { n: 1, of: "grüße \u{1F30D}" })
          yield* Suite.equal("its id", message?.id, "first")
          yield* Suite.equal("its key", message?.key, "a b")
          yield* Suite.equal("its headers", message?.headers, { "x-trace": "1", __proto__x: "ü" })
          yield* Suite.equal("its position", message?.position, published.position)
          yield* Suite.equal("its topic", message?.topic, topic.name)
          yield* Suite.equal("deliveries", message?.deliveries, 1)
        }
        yield* pendingIs(bus, topic, "one", 0)
      })
    ),
    scenario("a group that comes later begins where it says", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 1 })
        yield* bus.publish(topic, { n: 1 })
        yield* advance(seconds(5))
        const second = yield* bus.publish(topic, { n: 2 })
        yield* advance(seconds(5))
        yield* bus.publish(topic, { n: 3 })
        const messages = yield* collect(bus, topic, { follow: false })
        const all = recorder()
        const none = recorder()
        const from = recorder()
        const since = recorder()
        yield* bus.subscribe(topic, { group: "all" })(all.handler)
        yield* bus.subscribe(topic, { group: "none", from: "end" })(none.handler)
        yield* bus.subscribe(topic, { group: "from", from: { position: second.position } })(from.handler)
        yield* bus.subscribe(topic, { group: "since", from: { at: messages[2]?.publishedAt ?? 0 } })(since.handler)
        const coming = recorder()
        yield* bus.subscribe(topic, { group: "coming", from: { at: 100_000_000_000_000 } })(coming.handler)
        yield* bus.publish(topic, { n: 4 })
        yield* all.has(4)
        yield* coming.has(1)
        yield* none.has(1)
        yield* from.has(3)
        yield* quiet
        yield* Suite.equal("all", all.numbers(), [1, 2, 3, 4])
        yield* Suite.equal("none", none.numbers(), [4])
        yield* Suite.equal("a time to come is the end", coming.numbers(), [4])
        yield* Suite.equal("from a position", from.numbers(), [2, 3, 4])
        // where the clock of the store has not moved in between, earlier ones have the same time
        yield* Suite.equal("since a time", since.numbers().slice(-2), [3, 4])
      })
    ),
    scenario("a group keeps its place while nobody is there, and begins there again", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic()
        const before = recorder()
        const first = yield* subscribed(bus, topic, { group: "g", from: "end" }, before.handler)
        yield* bus.publish(topic, { n: 1 })
        yield* before.has(1)
        yield* first.close
        yield* bus.publish(topic, { n: 2 })
        const after = recorder()
        yield* subscribed(bus, topic, { group: "g", from: "end" }, after.handler)
        yield* after.has(1)
        yield* quiet
        yield* Suite.equal("what came meanwhile, and that alone", after.numbers(), [2])
      })
    ),
    scenario(
      "events of one key come in the order of their publication, whatever their handlers take",
      (bus, makeTopic) =>
        Effect.gen(function* () {
          const topic = makeTopic()
          const seen: Array<Event> = []
          const running = new Set<string>()
          let overlaps = 0
          yield* bus.subscribe(topic, { group: "g", concurrency: 50, prefetch: 7 })((message) =>
            Effect.gen(function* () {
              const key = message.key ?? ""
              if (running.has(key)) overlaps++
              running.add(key)
              yield* Effect.repeatN(Effect.yieldNow(), (message.event.n * 7) % 5)
              running.delete(key)
              seen.push(message.event)
            })
          )
          const keys = range(0, 9).map((n) => `key ${n}`)
          yield* Effect.forEach(
            keys,
            (key) => Effect.forEach(range(1, 30), (n) => bus.publish(topic, { n, of: key }, { key })),
            { concurrency: "unbounded" }
          )
          yield* until(
            "300 events",
            Effect.sync(() => seen.length >= 300)
          )
          for (const key of keys) {
            const numbers = seen.filter((event) => event.of === key).map((event) => event.n)
            yield* Suite.equal(`the order of ${key}`, numbers, range(1, 30))
          }
          yield* Suite.equal("one at a time", overlaps, 0)
          yield* pendingIs(bus, topic, "g", 0)
        })
    ),
    scenario("events of different keys are handled at the same time, but no more than asked for", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic()
        const gate = yield* Deferred.make<void>()
        let running = 0
        let most = 0
        const subscription = yield* bus.subscribe(topic, { group: "g", concurrency: 3 })(() =>
          Effect.gen(function* () {
            running++
            most = Math.max(most, running)
            yield* Deferred.await(gate)
            running--
          })
        )
        yield* Effect.forEach(range(1, 10), (n) => bus.publish(topic, { n }, { key: `${n}` }))
        yield* until(
          "three at a time",
          Effect.sync(() => running === 3)
        )
        yield* quiet
        yield* Suite.equal("as the counters say", (yield* subscription.stats).running, 3)
        yield* Deferred.succeed(gate, undefined)
        yield* until(
          "all",
          Effect.map(subscription.stats, ({ handled }) => handled === 10)
        )
        yield* Suite.equal("never more", most, 3)
      })
    ),
    scenario("an event is published once for each id", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ deduplicateFor: "1 minute" })
        const first = yield* bus.publish(topic, { n: 1 }, { id: "a", key: "k" })
        const again = yield* Effect.forEach(range(1, 5), () => bus.publish(topic, { n: 1 }, { id: "a", key: "k" }), {
          concurrency: "unbounded"
        })
        for (const one of again) yield* Suite.equal("again", one, { ...first, duplicate: true })
        yield* bus.publish(topic, { n: 2 }, { id: "b", key: "k" })
        const both = yield* bus.publishAll(topic, [
          { event: { n: 3 }, id: "c", key: "k" },
          { event: { n: 3 }, id: "c", key: "k" },
          { event: { n: 1 }, id: "a", key: "k" }
        ])
        yield* Suite.equal(
          "in one go",
          both.map(({ duplicate }) => duplicate),
          [false, true, true]
        )
        yield* Suite.equal(
          "there",
          (yield* collect(bus, topic, { follow: false })).map(({ event }) => event.n),
          [1, 2, 3]
        )
        yield* advance(seconds(61))
        const later = yield* bus.publish(topic, { n: 1 }, { id: "a", key: "k" })
        yield* Suite.equal("after its time it is new", later.duplicate, false)
      })
    ),
    scenario("publishes many in their order, and says where each is", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic()
        yield* Suite.equal("nothing", yield* bus.publishAll(topic, []), [])
        const published = yield* bus.publishAll(
          topic,
          range(1, 1_200).map((n) => ({ event: { n }, key: `${n % 3}` }))
        )
        const messages = yield* collect(bus, topic, { follow: false, pageSize: 50 })
        yield* Suite.equal("all", messages.length, 1_200)
        const where = new Map(messages.map((message) => [message.event.n, message.position]))
        yield* Suite.isTrue(
          "where they are",
          published.every(({ position }, index) => where.get(index + 1) === position)
        )
        for (const key of ["0", "1", "2"]) {
          const numbers = messages.filter((message) => message.key === key).map((message) => message.event.n)
          yield* Suite.equal(
            `the order of ${key}`,
            numbers,
            [...numbers].sort((a, b) => a - b)
          )
        }
      })
    ),
    scenario("a handler that fails gets its event again, and others do not wait for it", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 1 })
        const seen: Array<string> = []
        const subscription = yield* bus.subscribe(topic, { group: "g", retryDelay: "10 seconds" })((message) => {
          seen.push(`${message.key} ${message.event.n} ${message.deliveries}`)
          if (message.event.n === 1 && message.deliveries === 1) return Effect.fail("no")
          if (message.event.n === 1 && message.deliveries === 2) return Effect.die("no")
          return Effect.void
        })
        yield* bus.publish(topic, { n: 1 }, { key: "bad" })
        yield* bus.publish(topic, { n: 2 }, { key: "bad" })
        yield* bus.publish(topic, { n: 3 }, { key: "good" })
        yield* until(
          "the others",
          Effect.sync(() => seen.includes("good 3 1"))
        )
        yield* quiet
        yield* Suite.equal(
          "what waits",
          seen.filter((one) => one.startsWith("bad")),
          ["bad 1 1"]
        )
        yield* advance(seconds(10))
        yield* until(
          "again",
          Effect.sync(() => seen.includes("bad 1 2"))
        )
        yield* advance(seconds(10))
        yield* until(
          "the next",
          Effect.sync(() => seen.includes("bad 2 1"))
        )
        yield* Suite.equal(
          "in order",
          seen.filter((one) => one.startsWith("bad")),
          ["bad 1 1", "bad 1 2", "bad 1 3", "bad 2 1"]
        )
        const stats = yield* subscription.stats
        yield* Suite.equal("counted", [stats.handled, stats.failed, stats.deadLettered], [3, 2, 0])
        yield* pendingIs(bus, topic, "g", 0)
      })
    ),
    scenario(
      "what fails too often is a dead letter; it can be read, replayed to its group, and dropped",
      (bus, makeTopic) =>
        Effect.gen(function* () {
          const topic = makeTopic()
          const others = recorder()
          const seen: Array<string> = []
          let broken = true
          yield* bus.subscribe(topic, { group: "others" })(others.handler)
          const subscription = yield* bus.subscribe(topic, { group: "g", maxDeliveries: 3, retryDelay: "1 second" })(
            (message) => {
              seen.push(`${message.id} ${message.deliveries}`)
              return broken && message.event.n < 0 ? Effect.fail(new Refused({ message: "negative" })) : Effect.void
            }
          )
          const dead = bus.deadLetters(topic, "g")
          yield* bus.publish(topic, { n: -1 }, { id: "a", key: "k", headers: { h: "v" } })
          yield* bus.publish(topic, { n: -2 }, { id: "b", key: "l" })
          yield* bus.publish(topic, { n: 3 }, { id: "c", key: "k" })
          yield* until(
            "two dead letters",
            Effect.zipRight(
              advance(seconds(1)),
              Effect.map(dead.count, (count) => count === 2)
            )
          )
          yield* until(
            "the next of the key",
            Effect.sync(() => seen.includes("c 1"))
          )
          yield* Suite.equal(
            "as often as it may be",
            seen.filter((one) => one.startsWith("a")),
            ["a 1", "a 2", "a 3"]
          )
          yield* Suite.equal("counted", (yield* subscription.stats).deadLettered, 2)
          const letters = yield* dead.read()
          const letter = letters.find(({ id }) => id === "a")
          yield* Suite.equal("the event", letter?.event, Option.some({ n: -1 }))
          yield* Suite.equal("as it is stored", letter?.data, '{"n":-1}')
          yield* Suite.equal("why", [letter?.reason, letter?.deliveries], ["Failed", 3])
          yield* Suite.equal("what was said", letter?.description, "Refused: negative")
          yield* Suite.equal("what went with it", [letter?.key, letter?.headers], ["k", { h: "v" }])
          yield* Suite.equal(
            "read in two goes",
            [...(yield* dead.read({ limit: 1 })), ...(yield* dead.read({ limit: 5, after: letters[0]?.letter }))],
            [...letters]
          )
          yield* pendingIs(bus, topic, "g", 0)
          yield* Suite.equal("of this group alone", yield* bus.deadLetters(topic, "others").count, 0)
          yield* others.has(3)

          broken = false
          yield* Suite.equal("replayed", yield* dead.replay([letter?.letter ?? ""]), 1)
          yield* until(
            "handled",
            Effect.sync(() => seen.filter((one) => one === "a 1").length === 2)
          )
          yield* Suite.equal("gone", yield* dead.replay([letter?.letter ?? ""]), 0)
          yield* Suite.equal(
            "one is left",
            (yield* dead.read()).map(({ id }) => id),
            ["b"]
          )
          yield* Suite.equal("dropped", yield* dead.drop("all"), 1)
          yield* Suite.equal("none", yield* dead.count, 0)
          yield* quiet
          yield* Suite.equal("nobody else has heard of it", others.seen.length, 3)
          yield* pendingIs(bus, topic, "others", 0)
          yield* Suite.fails("no letter", dead.drop(["x"]), (error) => error.reason === "InvalidOptions")
        })
    ),
    scenario("replaying all dead letters replays each once, though it dies again", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ maxDeadLetters: 100 })
        const subscription = yield* bus.subscribe(topic, { group: "g", maxDeliveries: 1 })(() => Effect.fail("no"))
        const dead = bus.deadLetters(topic, "g")
        const count = (n: number) =>
          until(
            `${n} letters`,
            Effect.map(dead.count, (count) => count === n)
          )
        yield* Effect.forEach(range(1, 12), (n) => bus.publish(topic, { n }, { key: `${n}` }))
        yield* count(12)
        yield* Suite.equal("replayed", yield* dead.replay("all"), 12)
        yield* until(
          "dead again",
          Effect.map(subscription.stats, ({ deadLettered }) => deadLettered === 24)
        )
        yield* count(12)
        yield* Suite.equal(
          "all of them",
          (yield* dead.read()).map(({ event }) => Option.getOrThrow(event).n).sort((a, b) => a - b),
          range(1, 12)
        )
      })
    ),
    scenario("of too many dead letters the oldest go", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 1, maxDeadLetters: 3 })
        const subscription = yield* bus.subscribe(topic, { group: "g", maxDeliveries: 1 })(() => Effect.fail("no"))
        yield* Effect.forEach(range(1, 8), (n) => bus.publish(topic, { n }, { key: "k" }))
        yield* until(
          "all dead",
          Effect.map(subscription.stats, ({ deadLettered }) => deadLettered === 8)
        )
        const letters = yield* bus.deadLetters(topic, "g").read()
        yield* Suite.equal(
          "the newest",
          letters.map(({ data }) => data),
          ['{"n":6}', '{"n":7}', '{"n":8}']
        )
      })
    ),
    scenario(
      "when a consumer ends, its handlers are interrupted and their events given back at once",
      (bus, makeTopic) =>
        Effect.gen(function* () {
          const topic = makeTopic()
          let interrupted = 0
          const first = yield* subscribed(bus, topic, { group: "g", concurrency: 2, maxDeliveries: 2 }, () =>
            Effect.onInterrupt(Effect.never, () =>
              Effect.sync(() => {
                interrupted++
              })
            )
          )
          yield* Effect.forEach(range(1, 5), (n) => bus.publish(topic, { n }, { key: "k" }))
          yield* bus.publish(topic, { n: 6 }, { key: "another" })
          yield* until(
            "two run",
            Effect.map(first.stats, ({ running }) => running === 2)
          )
          yield* first.close
          yield* Suite.equal("interrupted", interrupted, 2)
          const second = recorder()
          yield* subscribed(bus, topic, { group: "g" }, second.handler)
          yield* second.has(6)
          yield* Suite.equal(
            "in order",
            second.seen.filter(({ key }) => key === "k").map(({ event }) => event.n),
            [1, 2, 3, 4, 5]
          )
          yield* Suite.isTrue(
            "no delivery is counted",
            second.seen.every(({ deliveries }) => deliveries === 1)
          )
          yield* pendingIs(bus, topic, "g", 0)
        })
    ),
    scenario("consumers of a group share its partitions, as they come and go", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 7 })
        const seen: Array<number> = []
        const handler = (message: EventBus.Message<Event>) => Effect.sync(() => seen.push(message.event.n))
        const shares = (...consumers: ReadonlyArray<EventBus.Subscription>) =>
          Effect.map(
            Effect.forEach(consumers, ({ stats }) => stats),
            (all) => all.map(({ partitions }) => partitions.length).sort()
          )
        const are = (
          what: string,
          expected: ReadonlyArray<number>,
          ...consumers: ReadonlyArray<EventBus.Subscription>
        ) =>
          until(
            what,
            Effect.map(shares(...consumers), (all) => all.join() === expected.join())
          )
        const one = yield* subscribed(bus, topic, { group: "g", consumer: "one" }, handler)
        yield* are("one has all", [7], one)
        const two = yield* subscribed(bus, topic, { group: "g", consumer: "two" }, handler)
        yield* are("two share", [3, 4], one, two)
        const three = yield* subscribed(bus, topic, { group: "g", consumer: "three" }, handler)
        yield* are("three share", [2, 2, 3], one, two, three)
        const { partitions } = yield* bus.stats(topic, "g")
        yield* Suite.equal(
          "each partition has one reader",
          partitions.map(({ consumer }) => consumer).filter((consumer) => consumer !== undefined).length,
          7
        )
        yield* Effect.forEach(range(1, 40), (n) => bus.publish(topic, { n }))
        yield* until(
          "all",
          Effect.sync(() => seen.length >= 40)
        )
        yield* two.close
        yield* are("two are left", [3, 4], one, three)
        yield* Effect.forEach(range(41, 80), (n) => bus.publish(topic, { n }))
        yield* until(
          "all",
          Effect.sync(() => seen.length >= 80)
        )
        yield* Suite.equal(
          "each once",
          [...seen].sort((a, b) => a - b),
          range(1, 80)
        )
      })
    ),
    scenario("the order of a key outlives changes of consumers", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 3 })
        const seen: Array<Event> = []
        const handler = (message: EventBus.Message<Event>) =>
          Effect.zipRight(
            Effect.yieldNow(),
            Effect.sync(() => seen.push(message.event))
          )
        const subscribe = subscribed(bus, topic, { group: "g", prefetch: 5 }, handler)
        const publishing = yield* Effect.fork(
          Effect.forEach(range(1, 100), (n) =>
            Effect.zipRight(
              Effect.forEach(["a", "b", "c", "d"], (key) => bus.publish(topic, { n, of: key }, { key })),
              Effect.yieldNow()
            )
          )
        )
        for (let round = 0; round < 4; round++) {
          const one = yield* subscribe
          yield* settle
          const two = yield* subscribe
          yield* settle
          yield* one.close
          yield* settle
          yield* two.close
        }
        yield* subscribe
        yield* publishing.await
        yield* until(
          "all",
          Effect.sync(() => new Set(seen.map(({ n, of }) => `${of}${n}`)).size === 400)
        )
        for (const key of ["a", "b", "c", "d"]) {
          // at least once: what comes again comes with all that followed it
          let last = 0
          for (const { n, of } of seen) {
            if (of !== key) continue
            yield* Suite.isTrue(`nothing of ${key} is passed over: ${n} after ${last}`, n <= last + 1)
            last = n
          }
        }
      })
    ),
    scenario("a group can be sent back, and forward", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 1 })
        const seen = recorder()
        yield* bus.subscribe(topic, { group: "g" })(seen.handler)
        const published = yield* Effect.forEach(range(1, 4), (n) => bus.publish(topic, { n }))
        yield* seen.has(4)
        yield* pendingIs(bus, topic, "g", 0)
        yield* bus.seek(topic, "g", { position: published[2]?.position ?? "" })
        yield* seen.has(6)
        yield* pendingIs(bus, topic, "g", 0)
        yield* Suite.equal("from a position", seen.numbers(), [1, 2, 3, 4, 3, 4])
        yield* bus.seek(topic, "g", "beginning")
        yield* seen.has(10)
        yield* Suite.equal("from the beginning", seen.numbers().slice(6), [1, 2, 3, 4])
        yield* bus.seek(topic, "later", "end")
        const later = recorder()
        yield* bus.subscribe(topic, { group: "later" })(later.handler)
        yield* bus.publish(topic, { n: 5 })
        yield* later.has(1)
        yield* Suite.equal("a group that was sent to the end", later.numbers(), [5])
        yield* Suite.fails(
          "a position of another topic",
          bus.seek(topic, "g", { position: "1-1@9" }),
          (error) => error.reason === "InvalidOptions"
        )
      })
    ),
    scenario("what is being handled is not begun again when its group is sent back", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 1 })
        const gate = yield* Deferred.make<void>()
        const begun: Array<number> = []
        yield* bus.subscribe(topic, { group: "g" })(({ event }) =>
          Effect.zipRight(
            Effect.sync(() => begun.push(event.n)),
            event.n === 1 ? Deferred.await(gate) : Effect.void
          )
        )
        yield* bus.publish(topic, { n: 1 })
        yield* bus.publish(topic, { n: 2 })
        yield* pendingIs(bus, topic, "g", 1)
        yield* bus.seek(topic, "g", "beginning")
        yield* until(
          "the other one again",
          Effect.sync(() => begun.length === 3)
        )
        yield* quiet
        yield* Suite.equal("begun", begun, [1, 2, 2])
        yield* Deferred.succeed(gate, undefined)
        yield* pendingIs(bus, topic, "g", 0)
        yield* Suite.equal("once", begun, [1, 2, 2])
      })
    ),
    scenario("a stream reads without a group: all that is there, and what comes", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 3 })
        const published: Array<EventBus.Published> = []
        for (const n of range(1, 20)) {
          published.push(yield* bus.publish(topic, { n }))
          yield* advance(Duration.millis(3))
        }
        const all = yield* collect(bus, topic, { follow: false, pageSize: 3 })
        yield* Suite.equal(
          "all of it",
          all.map(({ event }) => event.n).sort((a, b) => a - b),
          range(1, 20)
        )
        const times = all.map(({ publishedAt }) => publishedAt)
        yield* Suite.equal(
          "by time",
          times,
          [...times].sort((a, b) => a - b)
        )
        const some = yield* collect(bus, topic, { follow: false, from: { position: published[10]?.position ?? "" } })
        for (const n of range(11, 20)) {
          yield* Suite.isTrue(
            `${n} is there`,
            some.some(({ event }) => event.n === n)
          )
        }
        yield* Suite.equal("none", yield* collect(bus, topic, { follow: false, from: "end" }), [])

        const seen = recorder()
        yield* Effect.forkScoped(Stream.runForEach(bus.stream(topic, { from: "end" }), seen.handler))
        yield* quiet
        yield* Effect.forEach(range(21, 25), (n) => bus.publish(topic, { n }))
        yield* seen.has(5)
        yield* Suite.equal("what came", seen.numbers().sort(), range(21, 25))
        const first = yield* Stream.runHead(bus.stream(topic))
        yield* Suite.equal(
          "deliveries",
          Option.map(first, ({ deliveries }) => deliveries),
          Option.some(1)
        )
        yield* Suite.equal("no group was made", yield* bus.groups(topic), [])
      })
    ),
    scenario("trimming keeps what a group has not acknowledged, unless it is told", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 1, retention: { maxLength: 10 } })
        const there = Effect.map(collect(bus, topic, { follow: false }), (all) => all.map(({ event }) => event.n))
        yield* bus.seek(topic, "slow", "beginning")
        const fast = recorder()
        yield* bus.subscribe(topic, { group: "fast" })(fast.handler)
        yield* Effect.forEach(range(1, 300), (n) => bus.publish(topic, { n }))
        yield* fast.has(300)
        yield* pendingIs(bus, topic, "fast", 0)
        yield* bus.trim(topic)
        yield* Suite.equal("a group has not seen it", yield* there, range(1, 300))

        const gate = yield* Deferred.make<void>()
        const slow = recorder()
        yield* bus.subscribe(topic, { group: "slow" })((message) =>
          message.event.n === 200 ? Effect.zipRight(Deferred.await(gate), slow.handler(message)) : slow.handler(message)
        )
        yield* slow.has(299)
        yield* pendingIs(bus, topic, "slow", 1)
        yield* bus.trim(topic)
        yield* Suite.equal("it is being handled", yield* there, range(200, 300))
        yield* Deferred.succeed(gate, undefined)
        yield* pendingIs(bus, topic, "slow", 0)
        yield* Suite.equal("trimmed", yield* bus.trim(topic), 91)
        yield* Suite.equal("the newest", yield* there, range(291, 300))

        yield* bus.seek(topic, "slow", "beginning")
        yield* until(
          "again",
          Effect.sync(() => slow.seen.length === 310)
        )
        yield* pendingIs(bus, topic, "slow", 0)
        yield* bus.seek(topic, "nobody", "beginning")
        yield* Suite.equal("kept", yield* bus.trim(topic, { maxLength: 2 }), 0)
        yield* Suite.equal("told", yield* bus.trim(topic, { maxLength: 2, unacknowledged: "drop" }), 8)
        yield* bus.removeGroup(topic, "nobody")
        yield* Suite.equal("without the group", yield* bus.trim(topic, { maxLength: 1 }), 1)
        yield* Suite.equal("the groups", yield* bus.groups(topic), ["fast", "slow"])
      })
    ),
    scenario("a topic is trimmed as it is published to", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic({ partitions: 1, retention: { maxLength: 50 } })
        const seen = recorder()
        yield* bus.subscribe(topic, { group: "g" })(seen.handler)
        for (const round of range(0, 9)) {
          yield* bus.publishAll(
            topic,
            range(1, 100).map((n) => ({ event: { n: round * 100 + n } }))
          )
          yield* seen.has((round + 1) * 100)
          yield* pendingIs(bus, topic, "g", 0)
        }
        yield* bus.publish(topic, { n: 1_001 })
        const { length } = yield* bus.stats(topic, "g")
        yield* Suite.isTrue(`about as many as asked for: ${length}`, length >= 50 && length <= 250)
      })
    ),
    scenario("the counters of a group say how far behind it is", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic()
        yield* Effect.forEach(range(1, 20), (n) => bus.publish(topic, { n }, { key: `${n}` }))
        yield* bus.seek(topic, "g", "beginning")
        const idle = yield* bus.stats(topic, "g")
        yield* Suite.equal("idle", [idle.length, idle.lag, idle.pending, idle.deadLetters], [20, 20, 0, 0])
        yield* Suite.equal("partitions", idle.partitions.length, 4)
        yield* Suite.isTrue(
          "nobody reads them",
          idle.partitions.every(({ consumer }) => consumer === undefined)
        )
        const gate = yield* Deferred.make<void>()
        yield* bus.subscribe(topic, { group: "g", consumer: "me" })(() => Deferred.await(gate))
        yield* pendingIs(bus, topic, "g", 20)
        const busy = yield* bus.stats(topic, "g")
        yield* Suite.equal("busy", [busy.length, busy.lag], [20, 0])
        yield* Suite.equal("whose", [...new Set(busy.partitions.map(({ consumer }) => consumer))], ["me"])
        yield* Deferred.succeed(gate, undefined)
        yield* pendingIs(bus, topic, "g", 0)
        yield* bus.seek(topic, "g", { at: 0 })
        yield* pendingIs(bus, topic, "g", 0)
        const unknown = yield* bus.stats(topic, "nobody")
        yield* Suite.equal("a group that is not there", [unknown.lag, unknown.pending], [20, 0])
      })
    ),
    scenario("what cannot be is refused, and nothing is done", (bus, makeTopic) =>
      Effect.gen(function* () {
        const topic = makeTopic()
        const refused = (
          what: string,
          effect: Effect.Effect<unknown, EventBus.EventBusError, Scope.Scope>,
          reason: EventBus.Reason
        ) => Suite.fails(what, effect, (error) => error.reason === reason && error.outcome === "not-done")
        const none = () => Effect.void
        for (const name of ["", "a{b", "a\nb", "a".repeat(201), "a\udc00"]) {
          yield* refused("a topic", bus.publish(makeTopic({ name }), { n: 1 }), "InvalidTopic")
          yield* refused("a group", bus.subscribe(topic, { group: name })(none), "InvalidOptions")
          yield* refused("a consumer", bus.subscribe(topic, { group: "g", consumer: name })(none), "InvalidOptions")
        }
        for (const partitions of [0, 1.5, 257, Number.NaN]) {
          yield* refused("partitions", bus.publish(makeTopic({ partitions }), { n: 1 }), "InvalidTopic")
        }
        for (const deduplicateFor of [0, -1, Number.POSITIVE_INFINITY]) {
          yield* refused("a time", bus.publish(makeTopic({ deduplicateFor }), { n: 1 }), "InvalidTopic")
        }
        for (const wrong of [
          { concurrency: 0 },
          { prefetch: 0 },
          { prefetch: 1_001 },
          { maxUnsettled: 0.5 },
          { maxDeliveries: 0 },
          { claimAfter: 0 },
          { pollInterval: Number.POSITIVE_INFINITY },
          { from: { position: "1-1" } },
          { from: { at: -1 } }
        ]) {
          yield* refused("an option", bus.subscribe(topic, { group: "g", ...wrong })(none), "InvalidOptions")
        }
        for (const id of ["", "a{b}", "\u0000", "a".repeat(513)]) {
          yield* refused("an id", bus.publish(topic, { n: 1 }, { id }), "InvalidOptions")
        }
        yield* refused("a key", bus.publish(topic, { n: 1 }, { key: "a".repeat(1_025) }), "InvalidOptions")
        yield* refused("an event", bus.publish(topic, { n: Number.NaN }), "InvalidEvent")
        yield* refused(
          "one of several",
          bus.publishAll(topic, [{ event: { n: 1 } }, { event: { n: Number.POSITIVE_INFINITY } }]),
          "InvalidEvent"
        )
        yield* refused("a length", bus.trim(topic, { maxLength: -1 }), "InvalidOptions")
        yield* refused("a page", Stream.runDrain(bus.stream(topic, { pageSize: 0, follow: false })), "InvalidOptions")
        yield* Suite.equal("nothing was published", yield* collect(bus, topic, { follow: false }), [])
        yield* Suite.equal("no group was made", yield* bus.groups(topic), [])
        yield* refused(
          "another number of partitions",
          bus.publish(makeTopic({ partitions: 5 }), { n: 1 }),
          "InvalidTopic"
        )
      })
    ),
    Suite.testWith(
      "what is not of the schema is a dead letter at once, and a stream says it or skips it",
      ["plant"],
      body((bus, makeTopic) =>
        Effect.gen(function* () {
          const topic = makeTopic({ partitions: 1 })
          yield* bus.publish(topic, { n: 1 })
          for (const text of ["", "{", "null", '{"n":"secret"}']) yield* plant(topic.settings, text)
          yield* bus.publish(topic, { n: 2 })
          const seen = recorder()
          yield* bus.subscribe(topic, { group: "g" })(seen.handler)
          yield* seen.has(2)
          const dead = bus.deadLetters(topic, "g")
          yield* until(
            "four letters",
            Effect.map(dead.count, (count) => count === 4)
          )
          const letters = yield* dead.read()
          yield* Suite.equal(
            "as they are",
            letters.map(({ data }) => data),
            ["", "{", "null", '{"n":"secret"}']
          )
          yield* Suite.isTrue(
            "why",
            letters.every(({ event, reason }) => reason === "Undecodable" && Option.isNone(event))
          )
          yield* Suite.isTrue(
            "not what",
            letters.every(({ description }) => !description.includes("secret"))
          )
          yield* pendingIs(bus, topic, "g", 0)
          const error = yield* Suite.fails(
            "a stream",
            collect(bus, topic, { follow: false }),
            (error) => error.reason === "Undecodable"
          )
          yield* Suite.isTrue("not what", !error.message.includes("secret"))
          const skipped = yield* collect(bus, topic, { follow: false, undecodable: "skip" })
          yield* Suite.equal(
            "skipped",
            skipped.map(({ event }) => event.n),
            [1, 2]
          )
        })
      )
    )
  ])
}
