/**
 * What all counters must do.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Counters from "../state/Counters.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What an adapter may have beyond the port: `plant`, that a test can put any text where a counter is kept.
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
  /** Lets time pass for the counters: by `TestClock` for those that go by `Clock`, by ageing what others keep. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  /** The clock of the store, in milliseconds since 1970. */
  readonly now: Effect.Effect<number, unknown, R>
  /** How much the store's clock may go on by itself while one case runs. Default: none. */
  readonly slack?: Duration.DurationInput | undefined
  /** Stores a text as it is, as another program could: the capability `plant`. */
  readonly plant?: ((key: string, text: string) => Effect.Effect<void, unknown, R>) | undefined
}

/**
 * The suite. Every case has keys of its own, so all of them can run on one store.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(options: Options<R>): Suite.Suite<Capability, Counters.Counters | R> => {
  const { advance } = options
  const slack = Duration.toMillis(options.slack ?? 0)
  const plant = options.plant ?? (() => Effect.dieMessage("the capability `plant` needs the option `plant`"))
  const body = (
    run: (counters: Counters.Service, key: string) => Effect.Effect<void, unknown, R>
  ): Effect.Effect<void, unknown, Counters.Counters | R> =>
    Effect.flatMap(Counters.Counters, (counters) =>
      Effect.flatMap(SessionStore.makeId, (id) => run(counters, `suite-${id.slice(0, 12)}`))
    )
  const scenario = (name: string, run: (counters: Counters.Service, key: string) => Effect.Effect<void, unknown, R>) =>
    Suite.test(name, body(run))

  /** Equal, or sooner by what the clock may have gone on by itself. */
  const near = (what: string, actual: Duration.Duration, expected: Duration.DurationInput) => {
    const [found, wanted] = [Duration.toMillis(actual), Duration.toMillis(expected)]
    return found <= wanted && found >= wanted - slack
      ? Effect.void
      : Suite.equal(what, Duration.format(actual), Duration.format(expected))
  }
  const hour = { ttl: "1 hour" } as const
  const reason = (expected: Counters.Reason) => (error: Counters.CountersError) => error.reason === expected

  return Suite.make<Capability, Counters.Counters | R>("Counters", [
    scenario("a counter that was never made is 0", (counters, key) =>
      Effect.gen(function* () {
        yield* Suite.equal("get", yield* counters.get(key), 0)
        yield* Suite.equal("reset", yield* counters.reset(key), false)
        const none = { allowed: true, value: 0, resetAfter: Duration.zero }
        yield* Suite.equal("an amount of 0", yield* counters.add(key, 0, hour), none)
        yield* Suite.equal("giving back", yield* counters.add(key, -5, hour), none)
        yield* Suite.equal("makes none", yield* counters.reset(key), false)
      })
    ),
    scenario("counts, gives back, and never goes below 0", (counters, key) =>
      Effect.gen(function* () {
        const first = yield* counters.add(key, 3, hour)
        yield* Suite.equal("made", [first.allowed, first.value], [true, 3])
        yield* near("for an hour", first.resetAfter, "1 hour")
        yield* Suite.equal("more", (yield* counters.add(key, 4, hour)).value, 7)
        yield* Suite.equal("get", yield* counters.get(key), 7)
        yield* Suite.equal("less", (yield* counters.add(key, -2, hour)).value, 5)
        yield* Suite.equal("as it is", (yield* counters.add(key, 0, hour)).value, 5)
        yield* Suite.equal("not below 0", (yield* counters.add(key, -100, hour)).value, 0)
        yield* Suite.equal("from 0 on", (yield* counters.add(key, 1, hour)).value, 1)
        yield* Suite.equal("reset", [yield* counters.reset(key), yield* counters.get(key)], [true, 0])
      })
    ),
    scenario("what would be above the limit is not added", (counters, key) =>
      Effect.gen(function* () {
        const spend = (amount: number, limit: number) =>
          Effect.map(counters.add(key, amount, { ...hour, limit }), ({ allowed, value }) => [allowed, value])
        yield* Suite.equal("more than all", yield* spend(11, 10), [false, 0])
        yield* Suite.equal("makes none", yield* counters.reset(key), false)
        yield* Suite.equal(
          "up to it",
          [yield* spend(6, 10), yield* spend(4, 10)],
          [
            [true, 6],
            [true, 10]
          ]
        )
        yield* Suite.equal("above it", yield* spend(1, 10), [false, 10])
        yield* Suite.equal("0 is never above", yield* spend(0, 5), [true, 10])
        yield* Suite.equal("nor is what is given back", yield* spend(-1, 5), [true, 9])
        yield* Suite.equal("another limit", yield* spend(11, 20), [true, 20])
        yield* Suite.equal("without one", (yield* counters.add(key, 100, hour)).value, 120)
      })
    ),
    scenario("a hundred at once spend the budget and no more", (counters, key) =>
      Effect.gen(function* () {
        const added = yield* Effect.forEach(Chunk.range(1, 100), () => counters.add(key, 3, { ...hour, limit: 100 }), {
          concurrency: "unbounded"
        })
        const values = [...added].filter((one) => one.allowed).map((one) => one.value)
        const expected = Array.from({ length: 33 }, (_, index) => 3 * (index + 1))
        yield* Suite.equal(
          "each its own",
          values.sort((a, b) => a - b),
          expected
        )
        yield* Suite.equal("the sum", yield* counters.get(key), 99)
      })
    ),
    scenario("a counter is forgotten after its time to live, which adding does not prolong", (counters, key) =>
      Effect.gen(function* () {
        yield* counters.add(key, 1, hour)
        yield* advance(Duration.minutes(40))
        const { resetAfter } = yield* counters.add(key, 1, { ttl: "1 day" })
        yield* near("the rest", resetAfter, "20 minutes")
        yield* advance(Duration.subtract(resetAfter, Duration.millis(slack + 1)))
        yield* Suite.equal("there", yield* counters.get(key), 2)
        yield* advance(Duration.millis(slack + 10))
        yield* Suite.equal("gone", [yield* counters.get(key), yield* counters.reset(key)], [0, false])
        yield* near("anew", (yield* counters.add(key, 1, hour)).resetAfter, "1 hour")
      })
    ),
    scenario("set puts another value, with a time to live of its own", (counters, key) =>
      Effect.gen(function* () {
        yield* counters.set(key, 50, hour)
        yield* Suite.equal("made", yield* counters.get(key), 50)
        yield* advance(Duration.minutes(50))
        yield* counters.set(key, 7, hour)
        yield* advance(Duration.minutes(50))
        yield* Suite.equal("prolonged", (yield* counters.add(key, 1, { ...hour, limit: 8 })).value, 8)
        yield* advance(Duration.minutes(11))
        yield* Suite.equal("gone", yield* counters.get(key), 0)
      })
    ),
    ...(["hour", "day", "week", "month", "year"] as const).map((window) =>
      scenario(`a counter of the ${window} is forgotten with it`, (counters, key) =>
        Effect.gen(function* () {
          for (const timeZone of [undefined, "UTC", "Europe/Berlin", "Pacific/Auckland", "-03:30"]) {
            const which = `${key}-${timeZone}`
            const zone = DateTime.unsafeMakeZoned(yield* options.now, { timeZone: timeZone ?? "UTC" })
            const { resetAfter } = yield* counters.add(which, 2, { window, timeZone })
            const before = yield* options.now
            // an hour is one of UTC
            const start =
              window === "hour"
                ? DateTime.startOf(DateTime.setZone(zone, DateTime.zoneMakeOffset(0)), "hour")
                : DateTime.startOf(zone, window, { weekStartsOn: 1 })
            const end = DateTime.toEpochMillis(DateTime.add(start, { [`${window}s`]: 1 }))
            // the window can have ended since
            const due = end > before ? end : before + Duration.toMillis(resetAfter)
            const off = before + Duration.toMillis(resetAfter) - due
            yield* Suite.isTrue(`${timeZone}: ends with the ${window}, not ${off} ms off`, off >= 0 && off <= slack)
            yield* Suite.equal("counts", (yield* counters.add(which, 3, { window, timeZone, limit: 5 })).value, 5)
            yield* counters.set(which, 9, { window, timeZone })
            yield* near("set", (yield* counters.add(which, 0, { window, timeZone })).resetAfter, resetAfter)
            yield* advance(Duration.sum(resetAfter, Duration.millis(1)))
            yield* Suite.equal("gone", yield* counters.get(which), 0)
          }
        })
      )
    ),
    scenario("keys are kept apart", (counters, key) =>
      Effect.gen(function* () {
        const keys = ["", " ", ":", "{a}", "}{", "*", "\u0000", "\u{1F511}", "K".repeat(500)].map((end) => key + end)
        for (const [index, one] of keys.entries()) yield* counters.add(one, index + 1, hour)
        for (const [index, one] of keys.entries()) yield* Suite.equal("its own", yield* counters.get(one), index + 1)
      })
    ),
    scenario("counts exactly up to the greatest whole number, and refuses more", (counters, key) =>
      Effect.gen(function* () {
        const most = Number.MAX_SAFE_INTEGER
        yield* counters.set(key, most - 3, hour)
        const { allowed, value } = yield* counters.add(key, 2, hour)
        yield* Suite.equal("two more", [allowed, value, yield* counters.get(key)], [true, most - 1, most - 1])
        yield* Suite.equal("too many", (yield* counters.add(key, 2, hour)).allowed, false)
        yield* Suite.equal("too many", (yield* counters.add(key, most, hour)).allowed, false)
        yield* Suite.equal("the last", (yield* counters.add(key, 1, { ...hour, limit: most })).value, most)
        yield* Suite.equal("all back", (yield* counters.add(key, -most, hour)).value, 0)
      })
    ),
    scenario("what cannot be asked is refused, and changes nothing", (counters, key) =>
      Effect.gen(function* () {
        yield* counters.add(key, 1, hour)
        for (const amount of [0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53]) {
          yield* Suite.fails("an amount", counters.add(key, amount, hour), reason("InvalidAmount"))
          yield* Suite.fails("a value", counters.set(key, amount, hour), reason("InvalidAmount"))
        }
        yield* Suite.fails("a value", counters.set(key, -1, hour), reason("InvalidAmount"))
        for (const limit of [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY]) {
          yield* Suite.fails("a limit", counters.add(key, 1, { ...hour, limit }), reason("InvalidOptions"))
        }
        const lifetimes = [
          { ttl: 0 },
          { ttl: -1 },
          { ttl: "Infinity" },
          {},
          { window: "minute" },
          { window: "day", timeZone: "Europe/Nowhere" },
          { window: "day", ttl: "1 hour" }
        ]
        for (const lifetime of lifetimes) {
          // as a program in plain JavaScript could
          const wrong = lifetime as Counters.Lifetime
          yield* Suite.fails("a lifetime", counters.add(key, 1, wrong), reason("InvalidOptions"))
          yield* Suite.fails("a lifetime", counters.set(key, 5, wrong), reason("InvalidOptions"))
        }
        for (const bad of ["", "a".repeat(1_025), "a\udc00"]) {
          yield* Suite.fails("a key", counters.add(bad, 1, hour), reason("InvalidKey"))
          yield* Suite.fails("a key", counters.get(bad), reason("InvalidKey"))
          yield* Suite.fails("a key", counters.set(bad, 1, hour), reason("InvalidKey"))
          yield* Suite.fails("a key", counters.reset(bad), reason("InvalidKey"))
        }
        yield* Suite.equal("as it was", yield* counters.get(key), 1)
      })
    ),
    Suite.testWith(
      "what is stored and is no counter fails typed, until it is set or reset",
      ["plant"],
      body((counters, key) =>
        Effect.gen(function* () {
          for (const text of ["", "abc", "1.5", "-3", "1e3", "{}", " 7"]) {
            yield* plant(key, text)
            yield* Suite.fails(`get of ${text}`, counters.get(key), reason("Rejected"))
            yield* Suite.fails(`add to ${text}`, counters.add(key, 1, hour), reason("Rejected"))
            yield* Suite.equal("reset", yield* counters.reset(key), true)
            yield* plant(key, text)
            yield* counters.set(key, 4, hour)
            yield* Suite.equal("set", (yield* counters.add(key, 1, hour)).value, 5)
          }
        })
      )
    ),
    Suite.testWith(
      "a counter of another program that would live for ever gets a time to live when it is added to",
      ["plant"],
      body((counters, key) =>
        Effect.gen(function* () {
          yield* plant(key, "41")
          const { resetAfter, value } = yield* counters.add(key, 1, hour)
          yield* Suite.equal("counted", value, 42)
          yield* near("for an hour", resetAfter, "1 hour")
          yield* advance(Duration.minutes(61))
          yield* Suite.equal("gone", yield* counters.get(key), 0)
        })
      )
    )
  ])
}
