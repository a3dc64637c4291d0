import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, FastCheck, Fiber, Option, Runtime, TestClock } from "effect"
import * as Deadline from "../../src/resilience/Deadline.ts"
import * as RateLimit from "../../src/resilience/RateLimit.ts"

/** How many commands are tried: 2,000, or what a longer run asks for. */
const wanted = Number(process.env["UNDERLAY_PROPERTY_COMMANDS"] ?? 2_000)

interface Settings {
  readonly algorithm: RateLimit.Algorithm
  readonly limit: number
  readonly interval: number
  readonly burst: number
  readonly maxWait: number
  readonly maxQueue: number
}

interface Waiting {
  readonly id: number
  readonly cost: number
}

/**
 * What the limit should do, as plainly as it can be said: every millisecond is gone through, and each unit that passed is
 * remembered. `level` is what a bucket holds, in thousandths of a unit times the interval, as a big whole number.
 */
interface Model {
  readonly now: number
  readonly level: bigint
  readonly log: ReadonlyArray<number>
  readonly queue: ReadonlyArray<Waiting>
  readonly passed: ReadonlyArray<number>
}

const initial: Model = { now: 0, level: 0n, log: [], queue: [], passed: [] }

const drained = (settings: Settings): bigint => BigInt(Math.round(settings.limit * 1000))
const unit = (settings: Settings): bigint => BigInt(settings.interval) * 1000n
const divisor = (a: bigint, b: bigint): bigint => (b === 0n ? a : divisor(b, a % b))

/** The burst; and where a millisecond brings more than that, one call and what a millisecond brings, less the least. */
const capacity = (settings: Settings): bigint => {
  const burst = BigInt(settings.burst) * unit(settings)
  const grain = unit(settings) + drained(settings) - divisor(unit(settings), drained(settings))
  return burst > grain ? burst : grain
}

const fits = (settings: Settings, model: Model, cost: number): boolean =>
  settings.algorithm === "gcra"
    ? model.level + BigInt(cost) * unit(settings) <= capacity(settings)
    : model.log.length + cost <= settings.limit

const pass = (settings: Settings, model: Model, cost: number): Model => ({
  ...model,
  level: model.level + BigInt(cost) * unit(settings),
  log: [...model.log, ...Array.from({ length: cost }, () => model.now)]
})

/** Lets pass who can, in order. What drains while somebody waits is theirs; while nobody does, an empty bucket is empty. */
const release = (settings: Settings, before: Model): Model => {
  let model = before
  for (let head = model.queue[0]; head !== undefined && fits(settings, model, head.cost); head = model.queue[0]) {
    const next = pass(settings, model, head.cost)
    model = { ...next, queue: model.queue.slice(1), passed: [...model.passed, head.id] }
  }
  return model.queue.length === 0 && model.level < 0n ? { ...model, level: 0n } : model
}

const millisecond = (settings: Settings, before: Model): Model => {
  const now = before.now + 1
  return release(settings, {
    ...before,
    now,
    level: before.level - drained(settings),
    log: before.log.filter((each) => each + settings.interval > now)
  })
}

const wait = (settings: Settings, before: Model, millis: number): Model => {
  let model = before
  for (let i = 0; i < millis; i++) model = millisecond(settings, model)
  return model
}

/** When a call that comes now would pass. */
const due = (settings: Settings, before: Model, cost: number): number => {
  let model: Model = release(settings, { ...before, queue: [...before.queue, { id: -1, cost }], passed: [] })
  for (;;) {
    if (model.passed.includes(-1)) return model.now - before.now
    model = millisecond(settings, model)
  }
}

type Command =
  | { readonly do: "try"; readonly cost: number }
  | { readonly do: "take"; readonly cost: number; readonly deadline: number | undefined }
  | { readonly do: "interrupt"; readonly which: number }
  | { readonly do: "wait"; readonly millis: number }
  | { readonly do: "step"; readonly millis: number }

const cost = FastCheck.oneof(
  { weight: 4, arbitrary: FastCheck.constant(1) },
  { weight: 1, arbitrary: FastCheck.integer({ min: 1, max: 3 }) }
)

const command: FastCheck.Arbitrary<Command> = FastCheck.oneof(
  { weight: 4, arbitrary: FastCheck.record({ do: FastCheck.constant("try" as const), cost }) },
  {
    weight: 12,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("take" as const),
      cost,
      deadline: FastCheck.option(FastCheck.integer({ min: 1, max: 60 }), { nil: undefined, freq: 4 })
    })
  },
  {
    weight: 4,
    arbitrary: FastCheck.record({ do: FastCheck.constant("interrupt" as const), which: FastCheck.nat(50) })
  },
  {
    weight: 8,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("wait" as const),
      millis: FastCheck.constantFrom(1, 2, 7, 19, 50, 130)
    })
  },
  {
    weight: 1,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("step" as const),
      millis: FastCheck.constantFrom(-100_000, -50, -1)
    })
  }
)

const settingsArbitrary: FastCheck.Arbitrary<Settings> = FastCheck.record({
  algorithm: FastCheck.constantFrom<Array<RateLimit.Algorithm>>("gcra", "sliding-window"),
  limit: FastCheck.constantFrom(3, 4, 7, 10, 150),
  interval: FastCheck.constantFrom(30, 77, 100),
  burst: FastCheck.constantFrom(3, 4, 9),
  maxWait: FastCheck.constantFrom(0, 15, 60, 100_000),
  maxQueue: FastCheck.constantFrom(2, 5, 100)
})

const check = (settings: Settings, commands: ReadonlyArray<Command>) =>
  Effect.gen(function* () {
    const limit = yield* RateLimit.make({
      name: "model",
      algorithm: settings.algorithm,
      limit: settings.limit,
      interval: settings.interval,
      ...(settings.algorithm === "gcra" ? { burst: settings.burst } : {}),
      maxWait: settings.maxWait,
      maxQueue: settings.maxQueue
    })
    let model = initial
    let clock = 0
    let ids = 0
    const passed: Array<number> = []
    const fibers = new Map<number, Fiber.RuntimeFiber<void, RateLimit.RateLimitExceeded>>()
    for (const [index, each] of commands.entries()) {
      const at = `command ${index}: ${JSON.stringify(each)} of ${JSON.stringify(settings)}`
      switch (each.do) {
        case "try": {
          const expected = model.queue.length === 0 && fits(settings, model, each.cost)
          assert.strictEqual(yield* limit.tryTake(each.cost), expected, at)
          if (expected) model = pass(settings, model, each.cost)
          break
        }
        case "take": {
          const id = ++ids
          const call = limit.take(each.cost).pipe(Effect.tap(Effect.sync(() => passed.push(id))))
          const fiber = yield* Effect.fork(each.deadline === undefined ? call : Deadline.within(call, each.deadline))
          yield* Effect.yieldNow()
          if (model.queue.length === 0 && fits(settings, model, each.cost)) {
            model = { ...pass(settings, model, each.cost), passed: [...model.passed, id] }
            break
          }
          const delay = due(settings, model, each.cost)
          if (
            delay > settings.maxWait ||
            model.queue.length >= settings.maxQueue ||
            delay >= (each.deadline ?? Number.POSITIVE_INFINITY)
          ) {
            const exit = Option.getOrThrowWith(yield* Fiber.poll(fiber), () => new Error(`not refused at ${at}`))
            const error = Option.getOrThrow(Exit.causeOption(exit))
            assert.isTrue(error._tag === "Fail", at)
            if (error._tag === "Fail") assert.strictEqual(Duration.toMillis(error.error.retryAfter), delay, at)
          } else {
            assert.isTrue(Option.isNone(yield* Fiber.poll(fiber)), `waits at ${at}`)
            fibers.set(id, fiber)
            model = { ...model, queue: [...model.queue, { id, cost: each.cost }] }
          }
          break
        }
        case "interrupt": {
          const waiting = model.queue[each.which % Math.max(1, model.queue.length)]
          const fiber = waiting === undefined ? undefined : fibers.get(waiting.id)
          if (fiber === undefined) break
          yield* Fiber.interrupt(fiber)
          model = release(settings, { ...model, queue: model.queue.filter((other) => other !== waiting) })
          yield* Effect.yieldNow()
          break
        }
        case "wait":
          model = wait(settings, model, each.millis)
          clock += each.millis
          yield* TestClock.setTime(clock)
          break
        case "step":
          // What a step does to those that wait is another test: the clock of the tests cannot tell how long it was.
          if (model.queue.length > 0) break
          clock += each.millis
          yield* TestClock.setTime(clock)
          yield* limit.snapshot
          break
      }
      assert.deepStrictEqual(passed, model.passed, at)
      const seen = yield* limit.snapshot
      assert.strictEqual(seen.waiting, model.queue.length, at)
      assert.strictEqual(Duration.toMillis(seen.retryAfter), due(settings, model, 1), at)
    }
    yield* Fiber.interruptAll([...fibers.values()])
    assert.strictEqual((yield* limit.snapshot).waiting, 0)
  })

describe("RateLimit against a pure model", () => {
  it.effect(
    `does what the model does over ${wanted} commands`,
    () =>
      Effect.gen(function* () {
        const runtime = yield* Effect.runtime<never>()
        let commands = 0
        yield* Effect.promise(() =>
          FastCheck.assert(
            FastCheck.asyncProperty(
              settingsArbitrary,
              FastCheck.array(command, { minLength: 40, maxLength: 120, size: "max" }),
              (settings, list) => {
                commands += list.length
                return Runtime.runPromise(runtime)(
                  TestClock.setTime(0).pipe(Effect.andThen(check(settings, list)), Effect.asVoid)
                )
              }
            ),
            { numRuns: Math.ceil(wanted / 40) }
          )
        )
        assert.isAtLeast(commands, wanted)
      }),
    Math.max(60_000, wanted * 30)
  )

  it("the model itself can tell: it refuses a limit that lets everything pass", () => {
    const settings: Settings = { algorithm: "gcra", limit: 1, interval: 10, burst: 1, maxWait: 0, maxQueue: 0 }
    const after = pass(settings, initial, 1)
    assert.isFalse(fits(settings, after, 1))
    assert.strictEqual(due(settings, after, 1), 10)
    assert.isTrue(fits(settings, wait(settings, after, 10), 1))
  })
})
