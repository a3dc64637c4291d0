/**
 * Histories of operations that several clients ran at once, and whether they are linearizable: whether every operation
 * can have happened at one instant between its call and its answer, in one order that a model explains. For tests of
 * stores under races and faults; the operations may come from several processes.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"

/**
 * An operation of a history, as plain data. Times are of one monotonic clock that all clients share, in any unit.
 *
 * - `Done`: it was answered, with `output`.
 * - `NotDone`: it is known to have had no effect.
 * - `Unknown`: nobody knows whether it had one: it can have taken effect at any time after its call, or never.
 *
 * @since 0.1.0
 * @category models
 */
export type Operation<Input, Output> = Done<Input, Output> | NotDone<Input> | Unknown<Input>

/**
 * @since 0.1.0
 * @category models
 */
export interface Done<out Input, out Output> {
  readonly _tag: "Done"
  readonly client: string
  readonly input: Input
  readonly invoked: number
  readonly completed: number
  readonly output: Output
}

/**
 * @since 0.1.0
 * @category models
 */
export interface NotDone<out Input> {
  readonly _tag: "NotDone"
  readonly client: string
  readonly input: Input
  readonly invoked: number
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Unknown<out Input> {
  readonly _tag: "Unknown"
  readonly client: string
  readonly input: Input
  readonly invoked: number
}

/**
 * What became of an operation that was run.
 *
 * @since 0.1.0
 * @category models
 */
export type Outcome<Output> =
  | { readonly _tag: "Done"; readonly output: Output }
  | { readonly _tag: "NotDone" }
  | { readonly _tag: "Unknown" }

/**
 * What the operations should do, one after another.
 *
 * @since 0.1.0
 * @category models
 */
export interface Model<State, Input, Output> {
  readonly initial: State
  /**
   * The states in which the operation can leave this one: none where it cannot have had this output here, several where
   * the model leaves it open. An `Unknown` operation may have had any output.
   */
  readonly step: (state: State, operation: Done<Input, Output> | Unknown<Input>) => ReadonlyArray<State>
  /** A name of the state: states of one name are one. */
  readonly identify: (state: State) => string
  /**
   * Whether an operation with this output never changes a state: reads, and writes that were refused. Such an operation
   * takes effect as soon as it can, which keeps histories with many of them decidable.
   */
  readonly isRead?: ((input: Input, output: Output) => boolean) | undefined
  /**
   * A name for what an `Unknown` operation does, where one with the same name is as good: of those the earliest is tried
   * alone, which keeps histories with many of them decidable.
   */
  readonly interchangeable?: ((input: Input) => string | undefined) | undefined
}

/**
 * Whether a history is linearizable. `configurations` is how much there was to look at.
 *
 * Of an `Anomaly`, `operation` is the first answer that nothing explains, `states` are those that were possible just
 * before it, and `pending` the operations that were under way or unknown then. `Undecided`: the limit was reached.
 *
 * @since 0.1.0
 * @category models
 */
export type Verdict<State, Input, Output> =
  | { readonly _tag: "Linearizable"; readonly operations: number; readonly configurations: number }
  | Anomaly<State, Input, Output>
  | { readonly _tag: "Undecided"; readonly operations: number; readonly configurations: number }

/**
 * @since 0.1.0
 * @category models
 */
export interface Anomaly<out State, out Input, out Output> {
  readonly _tag: "Anomaly"
  readonly operation: Done<Input, Output>
  readonly states: ReadonlyArray<State>
  readonly pending: ReadonlyArray<Done<Input, Output> | Unknown<Input>>
  /** How many answers were explained before it. */
  readonly explained: number
  readonly configurations: number
}

/**
 * Options of `check`.
 *
 * @since 0.1.0
 * @category models
 */
export interface CheckOptions {
  /** How many configurations are looked at before it is given up. Default: 2,000,000. */
  readonly limit?: number | undefined
}

/** A way in which everything until now can have gone. */
interface Configuration<State> {
  readonly state: State
  readonly name: string
  /** The operations that took effect and are answered later, by their slots. */
  readonly effected: bigint
  /** The unknown operations that took effect. */
  readonly spent: bigint
}

/**
 * Decides whether a history is linearizable.
 *
 * It keeps all configurations that explain the answers until now, and lets operations take effect only when the next
 * answer wants it (Lowe, "Testing for linearizability", 2017, after Wing and Gong, 1993). No configuration is looked at
 * twice, nor one that needs more unknown operations than another with the same state; a read takes effect as soon as it
 * can. So histories of some thousand operations take milliseconds.
 *
 * Split a history by key where keys are independent: a history is linearizable when that of each key is.
 *
 * @since 0.1.0
 * @category combinators
 */
export const check = <State, Input, Output>(
  model: Model<State, Input, Output>,
  history: ReadonlyArray<Operation<Input, Output>>,
  options: CheckOptions = {}
): Verdict<State, Input, Output> => {
  const limit = options.limit ?? 2_000_000
  const all = history.filter((one) => one._tag !== "NotDone")
  const slots = makeSlots<Done<Input, Output> | Unknown<Input>>()
  let configurations = 0
  let explained = 0

  const named = (operation: Unknown<Input>): string | undefined => model.interchangeable?.(operation.input)

  const isRead = (operation: Done<Input, Output> | Unknown<Input>): boolean =>
    operation._tag === "Done" && model.isRead?.(operation.input, operation.output) === true

  /** A read that is true now can as well happen now: it changes nothing. */
  const settled = (state: State, name: string, effected: bigint, spent: bigint): Configuration<State> => {
    let now = effected
    for (const { bit, operation } of slots.taken) {
      if ((now & bit) === 0n && isRead(operation) && model.step(state, operation).length > 0) now |= bit
    }
    return { state, name, effected: now, spent }
  }

  let frontier: ReadonlyArray<Configuration<State>> = [
    { state: model.initial, name: model.identify(model.initial), effected: 0n, spent: 0n }
  ]

  for (const { isCall, operation } of eventsOf(all)) {
    if (isCall) {
      slots.take(operation)
      continue
    }
    if (operation._tag !== "Done") continue
    const wanted = slots.bitOf(operation)
    const seen = makeMinimal()
    const explaining: Array<Configuration<State>> = []
    const kept = makeMinimal()
    /** By the number of unknown operations they need: those that need the fewest come first. */
    const work: Array<Array<Configuration<State>>> = []
    const add = (configuration: Configuration<State>): void => {
      if ((configuration.effected & wanted) !== 0n) {
        const without = { ...configuration, effected: configuration.effected & ~wanted }
        if (kept.add(without)) explaining.push(without)
        return
      }
      if (!seen.add(configuration)) return
      configurations++
      const rank = countOf(configuration.spent)
      while (work.length <= rank) work.push([])
      work[rank]?.push(configuration)
    }
    for (const { effected, name, spent, state } of frontier) add(settled(state, name, effected, spent))

    for (let rank = 0; rank < work.length; rank++) {
      for (let next = work[rank]?.pop(); next !== undefined; next = work[rank]?.pop()) {
        if (configurations > limit) return { _tag: "Undecided", operations: all.length, configurations }
        const { effected, name, spent, state } = next
        const tried = new Set<string>()
        for (const { bit, operation: candidate } of slots.taken) {
          if (((effected | spent) & bit) !== 0n) continue
          if (candidate._tag === "Unknown") {
            const like = named(candidate)
            if (like !== undefined) {
              if (tried.has(like)) continue
              tried.add(like)
            }
          }
          for (const after of model.step(state, candidate)) {
            const nameAfter = model.identify(after)
            if (candidate._tag === "Unknown") {
              if (nameAfter !== name) add(settled(after, nameAfter, effected, spent | bit))
            } else add(settled(after, nameAfter, effected | bit, spent))
          }
        }
      }
    }
    if (explaining.length === 0) {
      const states = new Map(frontier.map((one) => [one.name, one.state]))
      return {
        _tag: "Anomaly",
        operation,
        states: [...states.values()],
        pending: slots.taken.map((one) => one.operation).filter((one) => one !== operation),
        explained,
        configurations
      }
    }
    slots.free(operation)
    frontier = explaining.filter((one) => kept.has(one))
    explained++
  }
  return { _tag: "Linearizable", operations: all.length, configurations }
}

/**
 * A history by keys, each in its order of calls.
 *
 * @since 0.1.0
 * @category combinators
 */
export const partition = <Input, Output>(
  history: ReadonlyArray<Operation<Input, Output>>,
  keyOf: (input: Input) => string
): ReadonlyMap<string, ReadonlyArray<Operation<Input, Output>>> => {
  const parts = new Map<string, Array<Operation<Input, Output>>>()
  for (const operation of [...history].sort((a, b) => a.invoked - b.invoked)) {
    const key = keyOf(operation.input)
    const part = parts.get(key)
    if (part === undefined) parts.set(key, [operation])
    else part.push(operation)
  }
  return parts
}

/**
 * A verdict as text, for the message of a test that fails.
 *
 * @since 0.1.0
 * @category combinators
 */
export const describe = <State, Input, Output>(verdict: Verdict<State, Input, Output>): string => {
  switch (verdict._tag) {
    case "Linearizable":
      return `linearizable: ${verdict.operations} operations, ${verdict.configurations} configurations`
    case "Undecided":
      return `undecided: ${verdict.operations} operations, given up after ${verdict.configurations} configurations`
    case "Anomaly":
      return [
        `not linearizable: after ${verdict.explained} answers nothing explains`,
        `  ${line(verdict.operation)}`,
        "possible states before it:",
        ...verdict.states.slice(0, 10).map((state) => `  ${JSON.stringify(state)}`),
        "under way or unknown:",
        ...verdict.pending.slice(-20).map((operation) => `  ${line(operation)}`)
      ].join("\n")
  }
}

/**
 * Takes down what clients do. `now` is the clock: where several processes write one history it must be one that they
 * share, as `process.hrtime` is on one machine.
 *
 * @since 0.1.0
 * @category models
 */
export interface Recorder<Input, Output> {
  /** Runs an operation and takes it down. One that fails, dies or is interrupted is `Unknown`. */
  readonly record: <E, R>(
    client: string,
    input: Input,
    run: Effect.Effect<Outcome<Output>, E, R>
  ) => Effect.Effect<Outcome<Output>, E, R>
  /** What was taken down until now, in the order of the answers. What is under way counts as `Unknown`. */
  readonly history: Effect.Effect<ReadonlyArray<Operation<Input, Output>>>
}

/**
 * Makes a recorder.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeRecorder = <Input, Output>(
  now: () => number = () => performance.now()
): Effect.Effect<Recorder<Input, Output>> =>
  Effect.sync(() => {
    const over: Array<Operation<Input, Output>> = []
    const running = new Set<Unknown<Input>>()
    return {
      record: (client, input, run) =>
        Effect.suspend(() => {
          const call: Unknown<Input> = { _tag: "Unknown", client, input, invoked: now() }
          running.add(call)
          return Effect.onExit(run, (exit) =>
            Effect.sync(() => {
              running.delete(call)
              const outcome: Outcome<Output> = Exit.isSuccess(exit) ? exit.value : { _tag: "Unknown" }
              over.push(
                outcome._tag === "Done"
                  ? { _tag: "Done", client, input, invoked: call.invoked, completed: now(), output: outcome.output }
                  : { ...call, _tag: outcome._tag }
              )
            })
          )
        }),
      history: Effect.sync(() => [...over, ...running])
    }
  })

const line = <Input, Output>(operation: Operation<Input, Output>): string => {
  const { client, input, invoked } = operation
  const until = operation._tag === "Done" ? `${operation.completed}` : "?"
  const result = operation._tag === "Done" ? JSON.stringify(operation.output) : operation._tag
  return `[${invoked} .. ${until}] ${client}: ${JSON.stringify(input)} = ${result}`
}

/** Calls and answers in the order of their times. Where a call and an answer are at one time, the two overlap. */
const eventsOf = <Input, Output>(
  operations: ReadonlyArray<Done<Input, Output> | Unknown<Input>>
): ReadonlyArray<{ readonly isCall: boolean; readonly operation: Done<Input, Output> | Unknown<Input> }> =>
  operations
    .flatMap((operation) => [
      { isCall: true, at: operation.invoked, operation },
      ...(operation._tag === "Done" ? [{ isCall: false, at: operation.completed, operation }] : [])
    ])
    .sort((a, b) => a.at - b.at || Number(b.isCall) - Number(a.isCall))

/** The operations that are under way, and those that are unknown: each has a bit of its own while it is. */
const makeSlots = <A extends object>() => {
  interface Slot {
    readonly operation: A
    readonly bit: bigint
  }
  let taken: Array<Slot> = []
  const freed: Array<bigint> = []
  const bits = new Map<A, bigint>()
  let next = 0n
  return {
    /** In the order of their calls. */
    get taken(): ReadonlyArray<Slot> {
      return taken
    },
    bitOf: (operation: A): bigint => bits.get(operation) ?? 0n,
    take: (operation: A): void => {
      const bit = freed.pop() ?? 1n << next++
      bits.set(operation, bit)
      taken.push({ operation, bit })
    },
    free: (operation: A): void => {
      const bit = bits.get(operation)
      if (bit === undefined) return
      bits.delete(operation)
      freed.push(bit)
      taken = taken.filter((one) => one.operation !== operation)
    }
  }
}

/** Configurations of which none needs all the unknown operations of another that is like it, and more. */
const makeMinimal = () => {
  const needs = new Map<string, ReadonlyArray<bigint>>()
  const nameOf = (one: Configuration<unknown>): string => `${one.effected.toString(36)} ${one.name}`
  return {
    /** Whether it was added: not where it is dominated. */
    add: (one: Configuration<unknown>): boolean => {
      const name = nameOf(one)
      const before = needs.get(name)
      if (before === undefined) {
        needs.set(name, [one.spent])
        return true
      }
      if (before.some((spent) => (spent & one.spent) === spent)) return false
      needs.set(name, [...before.filter((spent) => (spent & one.spent) !== one.spent), one.spent])
      return true
    },
    has: (one: Configuration<unknown>): boolean => needs.get(nameOf(one))?.includes(one.spent) ?? false
  }
}

const countOf = (bits: bigint): number => {
  let count = 0
  for (let left = bits; left !== 0n; left &= left - 1n) count++
  return count
}
