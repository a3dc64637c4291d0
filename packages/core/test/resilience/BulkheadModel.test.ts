import { assert, describe, it } from "@effect/vitest"
import { Bulkhead, Deadline } from "@underlay/core"
import { Clock, Deferred, Duration, Effect, FastCheck, Fiber, Runtime } from "effect"
import type * as machine from "../../src/internal/resilience/bulkhead.ts"

interface Settings {
  readonly limit: number
  readonly maxQueue: number
  readonly maxWait: number
}

interface Waiting {
  readonly id: number
  readonly rank: number
  readonly weight: number
  readonly deadline: number
  /** When it gives up: its deadline or the longest wait. */
  readonly until: number
}

type Status = "running" | "waiting" | "interrupted" | Bulkhead.Reason

/** What the bulkhead should do, as pure functions over those in flight and those who wait, in the order of arrival. */
interface Model {
  readonly now: number
  readonly settings: Settings
  readonly flying: ReadonlyMap<number, number>
  readonly waiting: ReadonlyArray<Waiting>
  readonly status: ReadonlyMap<number, Status>
}

const ranks: ReadonlyArray<Bulkhead.Priority> = ["high", "normal", "low"]

const active = (model: Model): number => [...model.flying.values()].reduce((sum, weight) => sum + weight, 0)

const marked = (model: Model, id: number, status: Status): Model => ({
  ...model,
  status: new Map(model.status).set(id, status)
})

const flying = (model: Model, id: number, weight: number): Model => ({
  ...marked(model, id, "running"),
  flying: new Map(model.flying).set(id, weight)
})

const without = (model: Model, id: number): Model => ({
  ...model,
  waiting: model.waiting.filter((each) => each.id !== id)
})

/** The one whose turn it is: the oldest of the highest priority. */
const head = (model: Model): Waiting | undefined =>
  model.waiting.reduce<Waiting | undefined>(
    (found, each) => (found === undefined || each.rank < found.rank ? each : found),
    undefined
  )

const advance = (model: Model): Model => {
  const next = head(model)
  if (next === undefined) return model
  if (next.deadline <= model.now) return advance(marked(without(model, next.id), next.id, "wait-too-long"))
  if (active(model) + next.weight > model.settings.limit) return model
  return advance(flying(without(model, next.id), next.id, next.weight))
}

interface Call {
  readonly id: number
  readonly rank: number
  readonly weight: number
  readonly deadline: number
}

const enter = (model: Model, call: Call): Model => {
  const { limit, maxQueue, maxWait } = model.settings
  if (call.weight > limit) return marked(model, call.id, "weight-above-limit")
  if (call.deadline <= model.now) return marked(model, call.id, "wait-too-long")
  const goesFirst = model.waiting.every((each) => each.rank > call.rank)
  if (goesFirst && active(model) + call.weight <= limit) return flying(model, call.id, call.weight)
  const queued = (before: Model): Model => ({
    ...marked(before, call.id, "waiting"),
    waiting: [...before.waiting, { ...call, until: Math.min(call.deadline, model.now + maxWait) }]
  })
  if (maxQueue === 0) return marked(model, call.id, "queue-full")
  if (model.waiting.length < maxQueue) return queued(model)
  const last = model.waiting.reduce<Waiting | undefined>(
    (found, each) => (each.rank > call.rank && (found === undefined || each.rank >= found.rank) ? each : found),
    undefined
  )
  return last === undefined
    ? marked(model, call.id, "queue-full")
    : queued(marked(without(model, last.id), last.id, "queue-full"))
}

const leave = (model: Model, id: number): Model => {
  const rest = new Map(model.flying)
  rest.delete(id)
  return advance({ ...model, flying: rest })
}

const interrupt = (model: Model, id: number): Model => advance(marked(without(model, id), id, "interrupted"))

const pass = (model: Model, to: number): Model => {
  const next = model.waiting.reduce<Waiting | undefined>(
    (found, each) => (each.until <= to && (found === undefined || each.until < found.until) ? each : found),
    undefined
  )
  if (next === undefined) return { ...model, now: to }
  const at = { ...model, now: next.until }
  return pass(advance(marked(without(at, next.id), next.id, "wait-too-long")), to)
}

const reload = (model: Model, settings: Settings): Model => {
  const heavy = model.waiting.filter((each) => each.weight > settings.limit)
  const rest = heavy.reduce((before, each) => marked(without(before, each.id), each.id, "weight-above-limit"), {
    ...model,
    settings
  })
  return advance(rest)
}

/** A clock whose sleepers wake one after the other, each at its own time, the older first where that is the same. */
class Manual implements Clock.Clock {
  readonly [Clock.ClockTypeId]: Clock.ClockTypeId = Clock.ClockTypeId
  readonly sleepers = new Set<{ readonly at: number; readonly wake: () => void }>()
  now = 0
  readonly currentTimeMillis = Effect.sync(() => this.now)
  readonly currentTimeNanos = Effect.sync(() => BigInt(this.now) * 1_000_000n)
  unsafeCurrentTimeMillis(): number {
    return this.now
  }
  unsafeCurrentTimeNanos(): bigint {
    return BigInt(this.now) * 1_000_000n
  }
  sleep(duration: Duration.Duration): Effect.Effect<void> {
    return Effect.async<void>((resume) => {
      const sleeper = { at: this.now + Duration.toMillis(duration), wake: () => resume(Effect.void) }
      this.sleepers.add(sleeper)
      return Effect.sync(() => this.sleepers.delete(sleeper))
    })
  }
  to(time: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      let next: { readonly at: number; readonly wake: () => void } | undefined
      for (const each of this.sleepers) if (each.at <= time && (next === undefined || each.at < next.at)) next = each
      if (next === undefined) {
        this.now = time
        return Effect.void
      }
      this.now = next.at
      this.sleepers.delete(next)
      next.wake()
      return Effect.andThen(settle, this.to(time))
    })
  }
}

const turn = Effect.async<void>((resume) => {
  setImmediate(() => resume(Effect.void))
})

/** Turns enough for whatever has been woken. */
const settle = Effect.repeatN(Effect.yieldNow(), 5)

type Ending = "ok" | "fail" | "die" | "interrupt"

type Command =
  | { readonly do: "enter"; readonly rank: number; readonly weight: number; readonly within: number }
  | { readonly do: "try"; readonly weight: number }
  | { readonly do: "leave"; readonly which: number; readonly how: Ending }
  | { readonly do: "cancel"; readonly which: number }
  | { readonly do: "time"; readonly millis: number }
  | { readonly do: "reload"; readonly settings: Settings }

const settingsArbitrary: FastCheck.Arbitrary<Settings> = FastCheck.record({
  limit: FastCheck.integer({ min: 1, max: 5 }),
  maxQueue: FastCheck.constantFrom(0, 1, 3, 6),
  maxWait: FastCheck.constantFrom(30, 100, 250)
})

const command: FastCheck.Arbitrary<Command> = FastCheck.oneof(
  {
    weight: 40,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("enter" as const),
      rank: FastCheck.constantFrom(0, 1, 1, 2),
      weight: FastCheck.constantFrom(1, 1, 1, 2, 3),
      within: FastCheck.constantFrom(Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY, 0, 20, 60)
    })
  },
  {
    weight: 5,
    arbitrary: FastCheck.record({ do: FastCheck.constant("try" as const), weight: FastCheck.constantFrom(1, 2) })
  },
  {
    weight: 25,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("leave" as const),
      which: FastCheck.nat(1_000),
      how: FastCheck.constantFrom<Array<Ending>>("ok", "ok", "fail", "die", "interrupt")
    })
  },
  {
    weight: 8,
    arbitrary: FastCheck.record({ do: FastCheck.constant("cancel" as const), which: FastCheck.nat(1_000) })
  },
  {
    weight: 12,
    arbitrary: FastCheck.record({
      do: FastCheck.constant("time" as const),
      millis: FastCheck.constantFrom(1, 10, 25, 70, 300)
    })
  },
  {
    weight: 3,
    arbitrary: FastCheck.record({ do: FastCheck.constant("reload" as const), settings: settingsArbitrary })
  }
)

const options = (settings: Settings) => ({
  maxConcurrent: settings.limit,
  maxQueue: settings.maxQueue,
  maxWait: settings.maxWait
})

interface Real {
  readonly gate: Deferred.Deferred<void, string>
  readonly fiber: Fiber.RuntimeFiber<unknown, unknown> | undefined
  readonly weight: number
  status: Status
}

const check = (clock: Manual, settings: Settings, commands: ReadonlyArray<Command>) =>
  Effect.gen(function* () {
    const bulkhead = yield* Bulkhead.make({ name: "model", ...options(settings) })
    // The types do not show it.
    const { machine } = bulkhead as typeof bulkhead & {
      readonly machine: machine.Bulkhead<Bulkhead.BulkheadFull>
    }
    let model: Model = { now: clock.now, settings, flying: new Map(), waiting: [], status: new Map() }
    const calls = new Map<number, Real>()
    const begin = (rank: number, weight: number, deadline: number) =>
      Effect.gen(function* () {
        const gate = yield* Deferred.make<void, string>()
        const id = calls.size
        const run = bulkhead
          .run(
            Effect.suspend(() => {
              const call = calls.get(id)
              if (call !== undefined) call.status = "running"
              return Deferred.await(gate)
            }),
            { priority: ranks[rank], weight }
          )
          .pipe(
            Effect.tapError((error) =>
              Effect.sync(() => {
                const call = calls.get(id)
                if (call !== undefined && error instanceof Bulkhead.BulkheadFull) call.status = error.reason
              })
            ),
            Deadline.at(deadline)
          )
        const fiber = yield* Effect.fork(run)
        calls.set(id, { gate, fiber, weight, status: "waiting" })
        return id
      })
    const end = (call: Real, how: Ending) =>
      Effect.gen(function* () {
        if (call.fiber === undefined) return machine.leave(clock.now, undefined, call.weight)
        if (how === "interrupt") yield* Fiber.interrupt(call.fiber)
        else if (how === "ok") yield* Deferred.succeed(call.gate, undefined)
        else if (how === "fail") yield* Deferred.fail(call.gate, "no")
        else yield* Deferred.die(call.gate, "bug")
        yield* Fiber.await(call.fiber)
      })
    for (const [index, each] of commands.entries()) {
      const at = `command ${index}: ${JSON.stringify(each)}`
      const before = { active: active(model), queued: model.waiting.length }
      switch (each.do) {
        case "enter": {
          const deadline = clock.now + each.within
          const id = yield* begin(each.rank, each.weight, deadline)
          model = enter(model, { id, rank: each.rank, weight: each.weight, deadline })
          break
        }
        case "try": {
          const fits = model.waiting.length === 0 && active(model) + each.weight <= model.settings.limit
          assert.strictEqual(machine.tryEnter(clock.now, each.weight), fits, at)
          if (fits) {
            const id = calls.size
            const gate = yield* Deferred.make<void, string>()
            calls.set(id, { gate, fiber: undefined, weight: each.weight, status: "running" })
            model = flying(model, id, each.weight)
          }
          break
        }
        case "leave": {
          const [id] = [...model.flying.keys()].slice(each.which % Math.max(1, model.flying.size))
          const call = id === undefined ? undefined : calls.get(id)
          if (id === undefined || call === undefined) break
          yield* end(call, each.how)
          model = leave(model, id)
          break
        }
        case "cancel": {
          const waiting = model.waiting[each.which % Math.max(1, model.waiting.length)]
          const call = waiting === undefined ? undefined : calls.get(waiting.id)
          if (waiting === undefined || call?.fiber === undefined) break
          yield* Fiber.interrupt(call.fiber)
          call.status = "interrupted"
          model = interrupt(model, waiting.id)
          break
        }
        case "time":
          model = pass(model, model.now + each.millis)
          yield* clock.to(model.now)
          break
        case "reload":
          yield* bulkhead.reload(options(each.settings))
          model = reload(model, each.settings)
          break
      }
      yield* settle
      const seen = yield* bulkhead.snapshot
      assert.strictEqual(seen.active, active(model), `active, ${at}`)
      assert.strictEqual(seen.queued, model.waiting.length, `queued, ${at}`)
      assert.strictEqual(seen.limit, model.settings.limit, at)
      assert.strictEqual(clock.sleepers.size, model.waiting.length, `timers, ${at}`)
      // These hold whatever the model says.
      assert.isTrue(seen.active <= Math.max(before.active, seen.limit), `never more in flight than allowed, ${at}`)
      assert.isTrue(seen.queued <= Math.max(before.queued, model.settings.maxQueue), `the queue is bounded, ${at}`)
      for (const [id, status] of model.status) assert.strictEqual(calls.get(id)?.status, status, `call ${id}, ${at}`)
    }
    for (const each of model.waiting) {
      const call = calls.get(each.id)
      if (call?.fiber !== undefined) yield* Fiber.interrupt(call.fiber)
      model = interrupt(model, each.id)
    }
    for (const id of model.flying.keys()) {
      const call = calls.get(id)
      if (call !== undefined) yield* end(call, "ok")
    }
    yield* settle
    const last = yield* bulkhead.snapshot
    assert.deepStrictEqual([last.active, last.queued, clock.sleepers.size], [0, 0, 0], "nothing is left")
  })

describe("Bulkhead against a pure model", () => {
  const wanted = Number(process.env["UNDERLAY_PROPERTY_COMMANDS"] ?? 2_000)

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
              FastCheck.array(command, { minLength: 1, maxLength: 250, size: "max" }),
              (settings, list) => {
                commands += list.length
                const clock = new Manual()
                // A turn of the event loop in between, or the runner takes a long run for dead.
                return Runtime.runPromise(runtime)(
                  Effect.andThen(Effect.withClock(check(clock, settings, list), clock), turn)
                )
              }
            ),
            { numRuns: Math.ceil(wanted / 50) }
          )
        )
        assert.isAtLeast(commands, wanted)
      }),
    Math.max(60_000, wanted * 10)
  )

  it("the model itself can tell: it holds back a light call behind a heavy one", () => {
    const call = { rank: 1, deadline: Number.POSITIVE_INFINITY }
    const settings = { limit: 2, maxQueue: 5, maxWait: 100 }
    const start: Model = { now: 0, settings, flying: new Map(), waiting: [], status: new Map() }
    const after = [1, 2, 1].reduce((model, weight, id) => enter(model, { ...call, id, weight }), start)
    assert.deepStrictEqual([...after.status.values()], ["running", "waiting", "waiting"])
    assert.deepStrictEqual([...leave(after, 0).status.values()], ["running", "running", "waiting"])
  })
})
