import { assert, describe, it } from "@effect/vitest"
import { SessionStore } from "@underlay/core"
import { History, LockHistory, SessionHistory } from "@underlay/core/testing"
import { Chunk, Effect, FastCheck, Random } from "effect"

/** A register: read, blind write, compare-and-set, and a counter's increment. */
type Input =
  | { readonly _tag: "Read" }
  | { readonly _tag: "Write"; readonly value: number }
  | { readonly _tag: "Cas"; readonly from: number; readonly to: number }
  | { readonly _tag: "Add" }

const register: History.Model<number, Input, number | boolean> = {
  initial: 0,
  step: (state, operation) => {
    const { input } = operation
    const answer = (expected: number | boolean, next: number) =>
      operation._tag === "Unknown" || operation.output === expected ? [next] : []
    switch (input._tag) {
      case "Read":
        return answer(state, state)
      case "Write":
        return answer(true, input.value)
      case "Cas":
        return state === input.from ? answer(true, input.to) : answer(false, state)
      case "Add":
        return answer(true, state + 1)
    }
  },
  identify: String,
  isRead: ({ _tag }, output) => _tag === "Read" || (_tag === "Cas" && output === false),
  interchangeable: (input) => JSON.stringify(input)
}

/** Whether some order explains a history: all orders are tried. */
const bruteForce = <State, Input, Output>(
  model: History.Model<State, Input, Output>,
  history: ReadonlyArray<History.Operation<Input, Output>>
): boolean => {
  const explains = (
    state: State,
    left: ReadonlyArray<Exclude<History.Operation<Input, Output>, { _tag: "NotDone" }>>
  ): boolean => {
    const answered = left.flatMap((one) => (one._tag === "Done" ? [one.completed] : []))
    if (answered.length === 0) return true
    const first = Math.min(...answered)
    return left.some(
      (one) =>
        one.invoked <= first &&
        model.step(state, one).some((next) =>
          explains(
            next,
            left.filter((other) => other !== one)
          )
        )
    )
  }
  return explains(
    model.initial,
    history.flatMap((one) => (one._tag === "NotDone" ? [] : [one]))
  )
}

/**
 * A random history: operations take effect one by one at an instant of their own, in between their call and their
 * answer; some are unknown, and some of those do nothing. With `lies`, some answers are others' answers.
 */
const histories = <State, Input, Output>(
  model: History.Model<State, Input, Output>,
  input: (index: number) => FastCheck.Arbitrary<Input>,
  answerOf: (state: State, input: Input) => Output,
  lies: FastCheck.Arbitrary<Output>,
  size: number
): FastCheck.Arbitrary<ReadonlyArray<History.Operation<Input, Output>>> =>
  FastCheck.tuple(
    ...Array.from({ length: size }, (_, index) =>
      FastCheck.record({
        input: input(index),
        at: FastCheck.integer({ min: 0, max: 40 }),
        before: FastCheck.integer({ min: 0, max: 12 }),
        after: FastCheck.integer({ min: 0, max: 12 }),
        fate: FastCheck.integer({ min: 0, max: 9 }),
        lie: lies
      })
    )
  ).map((plans) => {
    let state = model.initial
    return [...plans]
      .sort((a, b) => a.at - b.at)
      .map(({ after, at, before, fate, input, lie }, index): History.Operation<Input, Output> => {
        const call = { client: `c${index}`, input, invoked: at - before }
        if (fate === 0) return { _tag: "NotDone", ...call }
        const isUnknown = fate <= 2
        if (fate !== 1) {
          const output = answerOf(state, input)
          const [next] = model.step(state, { _tag: "Done", ...call, completed: at, output })
          if (next !== undefined) state = next
          if (!isUnknown) return { _tag: "Done", ...call, completed: at + after, output: fate === 9 ? lie : output }
        }
        return { _tag: "Unknown", ...call }
      })
  })

const registerHistories = (size: number) =>
  histories(
    register,
    () => {
      const small = FastCheck.integer({ min: 0, max: 3 })
      return FastCheck.oneof(
        FastCheck.constant<Input>({ _tag: "Read" }),
        FastCheck.constant<Input>({ _tag: "Add" }),
        small.map((value): Input => ({ _tag: "Write", value })),
        FastCheck.tuple(small, small).map(([from, to]): Input => ({ _tag: "Cas", from, to }))
      )
    },
    (state, input) => (input._tag === "Read" ? state : input._tag === "Cas" ? state === input.from : true),
    FastCheck.oneof(FastCheck.integer({ min: 0, max: 3 }), FastCheck.boolean()),
    size
  )

const done = <Input, Output>(
  client: string,
  invoked: number,
  completed: number,
  input: Input,
  output: Output
): History.Done<Input, Output> => ({ _tag: "Done", client, invoked, completed, input, output })

describe("History", () => {
  it("judges small random histories as one does that tries every order", () => {
    const seen = { linearizable: 0, anomalies: 0 }
    FastCheck.assert(
      FastCheck.property(registerHistories(7), (history) => {
        const expected = bruteForce(register, history)
        seen[expected ? "linearizable" : "anomalies"]++
        return (History.check(register, history)._tag === "Linearizable") === expected
      }),
      { numRuns: 3_000, seed: 7 }
    )
    FastCheck.assert(
      FastCheck.property(
        registerHistories(6),
        (history) => (History.check(register, history)._tag === "Linearizable") === bruteForce(register, history)
      ),
      { numRuns: 1_000 }
    )
    // both occur often
    assert.isAbove(seen.linearizable, 300)
    assert.isAbove(seen.anomalies, 300)
  })

  it("judges the same without what only makes it faster", () => {
    const { initial, identify, step } = register
    FastCheck.assert(
      FastCheck.property(
        registerHistories(9),
        (history) => History.check(register, history)._tag === History.check({ initial, identify, step }, history)._tag
      ),
      { numRuns: 1_000 }
    )
  })

  it("a stale read, a lost update, and what an unknown write explains", () => {
    const write = done<Input, number | boolean>("a", 0, 1, { _tag: "Write", value: 1 }, true)
    const stale = done<Input, number | boolean>("b", 2, 3, { _tag: "Read" }, 0)
    const verdict = History.check(register, [write, stale])
    assert.strictEqual(verdict._tag, "Anomaly")
    if (verdict._tag === "Anomaly") {
      assert.strictEqual(verdict.operation, stale)
      assert.deepStrictEqual(verdict.states, [1])
      assert.strictEqual(verdict.explained, 1)
    }
    assert.match(History.describe(verdict), /nothing explains\n {2}\[2 \.\. 3\] b: \{"_tag":"Read"\} = 0/)
    // they overlap: the read can have been first
    assert.strictEqual(History.check(register, [write, { ...stale, invoked: 1 }])._tag, "Linearizable")
    const unknown: History.Unknown<Input> = {
      _tag: "Unknown",
      client: "c",
      input: { _tag: "Write", value: 0 },
      invoked: 0
    }
    assert.strictEqual(History.check(register, [write, stale, unknown])._tag, "Linearizable")
    // once only: what it wrote was written over
    const again = [
      done<Input, number | boolean>("a", 4, 5, { _tag: "Write", value: 2 }, true),
      done<Input, number | boolean>("b", 6, 7, { _tag: "Read" }, 0)
    ]
    assert.strictEqual(History.check(register, [write, stale, unknown, ...again])._tag, "Anomaly")
    assert.strictEqual(History.check(register, [write, stale, { ...unknown, _tag: "NotDone" }])._tag, "Anomaly")
    assert.strictEqual(History.check(register, [write, stale, { ...unknown, invoked: 4 }])._tag, "Anomaly")
  })

  it("is decided for thousands of operations on one key, with many that are unknown, in well under a second", () => {
    const long = FastCheck.sample(registerHistories(40), { numRuns: 125, seed: 1 }).flatMap((history, index) =>
      // one after another; each begins with a write that is known
      [
        done<Input, number | boolean>("w", index * 100 - 20, index * 100 - 15, { _tag: "Write", value: 0 }, true),
        ...history.map((one) => ({
          ...one,
          invoked: one.invoked + index * 100,
          ...(one._tag === "Done" ? { completed: one.completed + index * 100 } : {})
        }))
      ].filter((one) => one._tag !== "Unknown" || index % 5 === 0)
    )
    assert.isAbove(long.length, 4_000)
    const before = process.cpuUsage()
    const verdict = History.check(register, long)
    assert.notStrictEqual(verdict._tag, "Undecided")
    assert.isBelow(process.cpuUsage(before).user / 1_000, 3_000)
  })

  it("gives up at its limit, and says so", () => {
    const history = FastCheck.sample(registerHistories(40), { numRuns: 1, seed: 3 })[0] ?? []
    assert.strictEqual(History.check(register, history, { limit: 1 })._tag, "Undecided")
  })

  it.effect("the recorder takes down what is done, what is not, and what nobody knows", () =>
    Effect.gen(function* () {
      let time = 0
      const recorder = yield* History.makeRecorder<string, string>(() => time++)
      yield* recorder.record("a", "one", Effect.succeed({ _tag: "Done", output: "1" }))
      yield* recorder.record("a", "two", Effect.succeed({ _tag: "NotDone" }))
      yield* recorder.record("a", "three", Effect.succeed({ _tag: "Unknown" }))
      yield* Effect.exit(recorder.record("b", "four", Effect.die("boom")))
      yield* Effect.fork(recorder.record("b", "five", Effect.never))
      yield* Effect.yieldNow()
      assert.deepStrictEqual(
        (yield* recorder.history).map((one) => [one._tag, one.input, one.invoked]),
        [
          ["Done", "one", 0],
          ["NotDone", "two", 2],
          ["Unknown", "three", 3],
          ["Unknown", "four", 4],
          ["Unknown", "five", 5]
        ]
      )
    })
  )
})

type SessionInput = SessionHistory.Input
const session = done<SessionInput, SessionHistory.Output>

/** What becomes of a session, by the letter of the port: one state, no cleverness. */
interface Plain {
  readonly [id: string]: ReadonlyArray<string> | "gone"
}

const plain: History.Model<Plain, SessionInput, SessionHistory.Output> = {
  initial: {},
  step: (state, operation) => {
    const { input } = operation
    const value = state[input.id]
    const says = (expected: ReadonlyArray<SessionHistory.Output>, next: Plain): ReadonlyArray<Plain> =>
      operation._tag === "Unknown" || expected.some((one) => JSON.stringify(one) === JSON.stringify(operation.output))
        ? [next]
        : []
    const isThere = value !== undefined && value !== "gone"
    switch (input._tag) {
      case "Get":
      case "GetAndTouch":
        return says([isThere ? value : "none"], state)
      case "Exists":
        return says([isThere], state)
      case "Delete":
        return says([isThere], { ...state, [input.id]: "gone" })
      case "Set":
        return value === "gone" ? says(["SessionGone"], state) : says(["done"], { ...state, [input.id]: [input.mark] })
      case "Create":
        return isThere ? says([false], state) : says([true], { ...state, [input.id]: [input.mark] })
      case "Update":
        if (!isThere) return says(["none", "SessionGone"], state)
        return says([[...value, input.mark]], { ...state, [input.id]: [...value, input.mark] })
      case "Rotate": {
        if (!isThere) return says([false, "SessionGone"], state)
        const other = state[input.to]
        return other !== undefined && other !== "gone"
          ? says(["SessionExists"], state)
          : says([true], { ...state, [input.id]: "gone", [input.to]: value })
      }
    }
  },
  identify: (state) => JSON.stringify(Object.entries(state).sort())
}

const sessionHistories = (size: number) => {
  const id = FastCheck.constantFrom("a", "b")
  const of = (index: number): FastCheck.Arbitrary<SessionInput> =>
    FastCheck.oneof(
      FastCheck.tuple(FastCheck.constantFrom("Get" as const, "Exists" as const, "Delete" as const), id).map(
        ([_tag, id]): SessionInput => ({ _tag, id })
      ),
      {
        weight: 2,
        arbitrary: FastCheck.tuple(
          FastCheck.constantFrom("Set" as const, "Create" as const, "Update" as const, "Update" as const),
          id
        ).map(([_tag, id]): SessionInput => ({ _tag, id, mark: `m${index}` }))
      },
      id.map((from): SessionInput => ({ _tag: "Rotate", id: from, to: from === "a" ? "b" : "a" }))
    )
  const outputs: ReadonlyArray<SessionHistory.Output> = [
    ...["none", "done", "SessionGone", "SessionExists"].map((one) => one as SessionHistory.Output),
    ...[true, false],
    ...[["m0"], ["m1"], ["m0", "m1"], ["m1", "m0"], ["m2", "m2"]]
  ]
  return histories(
    plain,
    of,
    (state, input) =>
      [
        ...outputs,
        ...Object.values(state).flatMap(
          (value): ReadonlyArray<SessionHistory.Output> =>
            value === "gone" ? [] : [value, "mark" in input ? [...value, input.mark] : value]
        )
      ].find(
        (output) => plain.step(state, { _tag: "Done", client: "", input, invoked: 0, completed: 0, output }).length > 0
      ) ?? "none",
    FastCheck.constantFrom(...outputs),
    size
  )
}

describe("SessionHistory", () => {
  it("judges small random histories as one does that tries every order", () => {
    const seen = { linearizable: 0, anomalies: 0 }
    FastCheck.assert(
      FastCheck.property(sessionHistories(7), (history) => {
        const expected = bruteForce(plain, history)
        seen[expected ? "linearizable" : "anomalies"]++
        return (SessionHistory.check(history)._tag === "Linearizable") === expected
      }),
      { numRuns: 3_000, seed: 11 }
    )
    FastCheck.assert(
      FastCheck.property(
        sessionHistories(6),
        (history) => (SessionHistory.check(history)._tag === "Linearizable") === bruteForce(plain, history)
      ),
      { numRuns: 1_000 }
    )
    assert.isAbove(seen.linearizable, 300)
    assert.isAbove(seen.anomalies, 300)
  })

  const created = session("a", 0, 1, { _tag: "Create", id: "x", mark: "c" }, true)
  const anomalies: Record<string, ReadonlyArray<SessionHistory.Operation>> = {
    "a lost update": [
      session("a", 2, 5, { _tag: "Update", id: "x", mark: "u" }, ["c", "u"]),
      session("b", 2, 5, { _tag: "Update", id: "x", mark: "v" }, ["c", "v"])
    ],
    "a stale read": [
      session("a", 2, 3, { _tag: "Update", id: "x", mark: "u" }, ["c", "u"]),
      session("b", 4, 5, { _tag: "Get", id: "x" }, ["c"])
    ],
    "a resurrection": [
      session("a", 2, 3, { _tag: "Delete", id: "x" }, true),
      session("b", 4, 5, { _tag: "Exists", id: "x" }, true)
    ],
    "a write that brings back": [
      session("a", 2, 3, { _tag: "Delete", id: "x" }, true),
      session("b", 4, 5, { _tag: "Set", id: "x", mark: "s" }, "done")
    ],
    "an update done twice": [
      session("a", 2, 3, { _tag: "Update", id: "x", mark: "u" }, ["c", "u"]),
      session("b", 4, 5, { _tag: "Get", id: "x" }, ["c", "u", "u"])
    ],
    "an unknown update done twice": [
      { _tag: "Unknown", client: "a", invoked: 2, input: { _tag: "Update", id: "x", mark: "u" } },
      session("b", 4, 5, { _tag: "Update", id: "x", mark: "v" }, ["c", "u", "v"]),
      session("b", 6, 7, { _tag: "Get", id: "x" }, ["c", "u", "v", "u"])
    ],
    "an update that is said not to be done": [
      { _tag: "NotDone", client: "a", invoked: 2, input: { _tag: "Update", id: "x", mark: "u" } },
      session("b", 4, 5, { _tag: "Get", id: "x" }, ["c", "u"])
    ],
    "a rotated session under both ids": [
      session("a", 2, 3, { _tag: "Rotate", id: "x", to: "y" }, true),
      session("b", 4, 5, { _tag: "Get", id: "y" }, ["c"]),
      session("b", 6, 7, { _tag: "Get", id: "x" }, ["c"])
    ],
    "a write that was answered and is not there": [session("b", 4, 5, { _tag: "Get", id: "x" }, "none")]
  }
  for (const [name, history] of Object.entries(anomalies)) {
    it(`finds ${name}`, () => assert.strictEqual(SessionHistory.check([created, ...history])._tag, "Anomaly"))
  }

  it("what was unknown may have been done, at any time", () => {
    const unknown = (input: SessionInput): SessionHistory.Operation => ({
      _tag: "Unknown",
      client: "u",
      invoked: 2,
      input
    })
    for (const history of [
      [
        unknown({ _tag: "Update", id: "x", mark: "u" }),
        session("b", 4, 5, { _tag: "Get", id: "x" }, ["c"]),
        session("b", 6, 7, { _tag: "Get", id: "x" }, ["c", "u"])
      ],
      [
        unknown({ _tag: "Delete", id: "x" }),
        session("b", 4, 5, { _tag: "Get", id: "x" }, ["c"]),
        session("b", 6, 7, { _tag: "Get", id: "x" }, "none")
      ],
      [
        unknown({ _tag: "Rotate", id: "x", to: "y" }),
        session("b", 6, 7, { _tag: "Get", id: "x" }, "none"),
        session("b", 8, 9, { _tag: "Get", id: "y" }, ["c"])
      ]
    ]) {
      assert.strictEqual(SessionHistory.check([created, ...history])._tag, "Linearizable")
    }
  })

  it("thousands of operations on one id, of which many are unknown, are judged in seconds", () => {
    let [time, marks] = [0, [] as ReadonlyArray<string>]
    const history: Array<SessionHistory.Operation> = []
    for (let n = 0; n < 5_000; n++) {
      const invoked = time
      time += 10
      const mark = `m${n}`
      if (n % 40 === 0) {
        marks = [mark]
        history.push(session("a", invoked, time - 3, { _tag: "Set", id: "x", mark }, "done"))
      } else if (n % 40 > 30) {
        // eight at once, of unknown fate: every other one was done
        const input: SessionInput = { _tag: "Update", id: "x", mark }
        history.push({ _tag: "Unknown", client: "b", invoked: invoked - 80, input })
        if (n % 2 === 0) marks = [...marks, mark]
      } else if (n % 3 === 0) {
        history.push(session("a", invoked - 25, time + 25, { _tag: "Get", id: "x" }, marks))
      } else {
        marks = [...marks, mark]
        history.push(session("c", invoked - 5, time + 5, { _tag: "Update", id: "x", mark }, marks))
      }
    }
    const before = process.cpuUsage()
    const verdict = SessionHistory.check(history)
    assert.strictEqual(verdict._tag, "Linearizable", "description" in verdict ? verdict.description : "")
    assert.isBelow(process.cpuUsage(before).user / 1_000, 5_000)
  })

  it.effect("a store in this process that is used by many at once", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      const recorder = yield* History.makeRecorder<SessionInput, SessionHistory.Output>()
      yield* Effect.forEach(
        Chunk.range(1, 8),
        (client) =>
          Effect.gen(function* () {
            for (let n = 0; n < 100; n++) {
              const tag = yield* Random.choice([
                "Get",
                "GetAndTouch",
                "Exists",
                "Delete",
                "Set",
                "Create",
                "Update",
                "Rotate"
              ] as const)
              const [id, mark] = [yield* Random.choice(["a", "b"]), `${client}-${n}`]
              const input: SessionInput =
                tag === "Rotate"
                  ? { _tag: tag, id, to: id === "a" ? "b" : "a" }
                  : tag === "Set" || tag === "Create" || tag === "Update"
                    ? { _tag: tag, id, mark }
                    : { _tag: tag, id }
              yield* recorder.record(`c${client}`, input, SessionHistory.perform(store, input))
              yield* Effect.yieldNow()
            }
          }),
        { concurrency: "unbounded" }
      ).pipe(Effect.orDie)
      const history = yield* recorder.history
      assert.lengthOf(history, 800)
      const verdict = SessionHistory.check(history)
      assert.strictEqual(verdict._tag, "Linearizable", "description" in verdict ? verdict.description : "")
    }).pipe(Effect.provide(SessionStore.layerMemory()))
  )
})

describe("LockHistory", () => {
  const hold = (
    n: number,
    asked: number,
    began: number,
    ended: number,
    seen: string,
    more: Partial<LockHistory.Hold> = {}
  ): LockHistory.Hold => ({
    client: `c${n}`,
    asked,
    began,
    ended,
    held: true,
    token: String(n),
    write: { mark: `m${n}`, seen, outcome: "Done" },
    ...more
  })
  const good = [hold(1, 0, 1, 5, ""), hold(2, 0, 6, 8, "m1"), hold(3, 7, 9, 10, "m2")]
  const log = [
    { mark: "m1", seen: "" },
    { mark: "m2", seen: "m1" },
    { mark: "m3", seen: "m2" }
  ]
  const tags = (holds: ReadonlyArray<LockHistory.Hold>, written: ReadonlyArray<LockHistory.Written>) =>
    [...new Set(LockHistory.check(holds, written).map((one) => one._tag))].sort()

  it("finds nothing where nothing is", () => {
    assert.deepStrictEqual(LockHistory.check(good, log), [])
    assert.deepStrictEqual(
      LockHistory.check(
        good.map((one) => ({ ...one, token: undefined })),
        log
      ),
      []
    )
    // who lost it may be late with its end, and its write may be there or not
    const lost = hold(2, 0, 6, 20, "m1", { held: false, write: { mark: "m2", seen: "m1", outcome: "Unknown" } })
    const [first, , third] = good
    if (first === undefined || third === undefined) return assert.fail()
    assert.deepStrictEqual(LockHistory.check([first, lost, third], log), [])
    const without = { ...third, write: { mark: "m3", seen: "m1", outcome: "Done" } as const }
    const shorter = [log[0], { mark: "m3", seen: "m1" }].flatMap((one) => (one === undefined ? [] : [one]))
    assert.deepStrictEqual(LockHistory.check([first, lost, without], shorter), [])
  })

  it("finds two holders, tokens out of order, late writes, lost updates, and writes done twice, not at all or in vain", () => {
    const [first, second, third] = good
    const [one, two, three] = log
    if (first === undefined || second === undefined || third === undefined) return assert.fail()
    if (one === undefined || two === undefined || three === undefined) return assert.fail()
    assert.deepStrictEqual(tags([first, { ...second, began: 4 }, third], log), ["TwoHolders"])
    assert.deepStrictEqual(tags([first, second, { ...third, token: "1" }], log), ["LateWrite", "TokenOrder"])
    assert.deepStrictEqual(tags([first, { ...second, token: "1" }, third], log), ["TokenOrder"])
    assert.deepStrictEqual(tags(good, [one, three, two]), ["LateWrite", "LostUpdate"])
    const untokened = good.map((hold) => ({ ...hold, token: undefined }))
    assert.include(tags(untokened, [two, one, three]), "LostUpdate")
    assert.include(tags(untokened, [one, three, two]), "LateWrite")
    assert.deepStrictEqual(tags(good, [one, { mark: "m2", seen: "" }, three]), ["LostUpdate"])
    assert.deepStrictEqual(tags(good, [one, two, three, { mark: "m3", seen: "m3" }]), ["Twice"])
    assert.deepStrictEqual(tags(good, [one, two]), ["Missing"])
    const denied = { ...third, write: { mark: "m3", seen: "m2", outcome: "NotDone" } as const }
    assert.deepStrictEqual(tags([first, second, denied], log), ["NotAsked"])
    assert.deepStrictEqual(tags([first, second], log), ["NotAsked"])
  })
})
