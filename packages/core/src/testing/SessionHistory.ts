/**
 * Histories of session operations, and whether a store kept its promises in them: no update is lost, nothing that was
 * read is stale, no session that was deleted or rotated away comes back, nothing is done twice. Every write leaves its
 * mark in the session, and an update adds its mark to those that are there.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as SessionStore from "../state/SessionStore.ts"
import * as History from "./History.ts"

/**
 * An operation on a session. `mark` is unique to the operation.
 *
 * @since 0.1.0
 * @category models
 */
export type Input =
  | { readonly _tag: "Get" | "GetAndTouch" | "Exists" | "Delete"; readonly id: string }
  | { readonly _tag: "Set" | "Create" | "Update"; readonly id: string; readonly mark: string }
  | { readonly _tag: "Rotate"; readonly id: string; readonly to: string }

/**
 * What it gave: the marks of the session that was read or updated, whether it was so (`Exists`, `Create`, `Delete`,
 * `Rotate`), `done` (`Set`), `none`, or why it was refused.
 *
 * @since 0.1.0
 * @category models
 */
export type Output = ReadonlyArray<string> | boolean | "done" | "none" | "SessionGone" | "SessionExists"

/**
 * Operations on sessions, as plain data.
 *
 * @since 0.1.0
 * @category models
 */
export type Operation = History.Operation<Input, Output>

/**
 * Runs an operation on a store, as `History.Recorder` wants it. Sessions hold their marks in `marks`, beside what else
 * `session` gives them (an owner, a large text).
 *
 * @since 0.1.0
 * @category combinators
 */
export const perform = (
  store: SessionStore.Service,
  input: Input,
  session: SessionStore.Session = {}
): Effect.Effect<History.Outcome<Output>> =>
  Effect.match(run(store, input, session), {
    onFailure: ({ outcome, reason }): History.Outcome<Output> =>
      reason === "SessionGone" || reason === "SessionExists"
        ? { _tag: "Done", output: reason }
        : { _tag: outcome === "unknown" ? "Unknown" : "NotDone" },
    onSuccess: (output) => ({ _tag: "Done", output })
  })

const run = (
  store: SessionStore.Service,
  input: Input,
  session: SessionStore.Session
): Effect.Effect<Output, SessionStore.SessionStoreError> => {
  switch (input._tag) {
    case "Get":
      return Effect.map(store.get(input.id), marksOrNone)
    case "GetAndTouch":
      return Effect.map(store.getAndTouch(input.id), marksOrNone)
    case "Exists":
      return store.exists(input.id)
    case "Delete":
      return store.delete(input.id)
    case "Set":
      return Effect.as(store.set(input.id, { ...session, marks: [input.mark] }), "done")
    case "Create":
      return store.create(input.id, { ...session, marks: [input.mark] })
    case "Update":
      return Effect.map(
        store.update(input.id, (before) => ({ ...before, marks: [...marksOf(before), input.mark] })),
        marksOrNone
      )
    case "Rotate":
      return Effect.map(store.rotate(input.id, input.to), Option.isSome)
  }
}

/**
 * The marks in a session.
 *
 * @since 0.1.0
 * @category combinators
 */
export const marksOf = (session: SessionStore.Session): ReadonlyArray<string> => {
  const marks = session["marks"]
  return Array.isArray(marks) ? marks.map(String) : []
}

const marksOrNone = (session: Option.Option<SessionStore.Session>): Output =>
  Option.isSome(session) ? marksOf(session.value) : "none"

/**
 * Of each id: absent, gone (deleted or rotated away, its tombstone in force), or the text that is there, by its number.
 *
 * @since 0.1.0
 * @category models
 */
export type State = ReadonlyArray<number>

const absent = 0
const gone = -1

/**
 * What is known of a whole history: `operations` of all its parts that are linearizable, or the first part that is not.
 *
 * @since 0.1.0
 * @category models
 */
export type Verdict =
  | { readonly _tag: "Linearizable"; readonly operations: number; readonly configurations: number }
  | {
      readonly _tag: "Anomaly" | "Undecided"
      readonly ids: ReadonlyArray<string>
      readonly description: string
    }

/**
 * Decides whether a history is linearizable, for each group of ids that rotations connect. At its beginning none of the
 * ids is stored, and while it lasts no session and no tombstone may expire: give the store times that are longer.
 *
 * An `update` or `rotate` of what is not there says `none` or `SessionGone`: which of the two is not judged.
 *
 * @since 0.1.0
 * @category combinators
 */
export const check = (history: ReadonlyArray<Operation>, options?: History.CheckOptions): Verdict => {
  let operations = 0
  let configurations = 0
  for (const [ids, part] of groups(history)) {
    const verdict = History.check(model(ids, part), relevant(part), options)
    if (verdict._tag !== "Linearizable") {
      return { _tag: verdict._tag, ids, description: History.describe(verdict) }
    }
    operations += part.length
    configurations += verdict.configurations
  }
  return { _tag: "Linearizable", operations, configurations }
}

/** Ids that a rotation connects are judged together. */
const groups = (
  history: ReadonlyArray<Operation>
): ReadonlyArray<readonly [ids: ReadonlyArray<string>, history: ReadonlyArray<Operation>]> => {
  const parents = new Map<string, string>()
  const rootOf = (id: string): string => {
    let root = id
    for (let next = parents.get(root); next !== undefined; next = parents.get(root)) root = next
    return root
  }
  const ids = new Set<string>()
  for (const { input } of history) {
    ids.add(input.id)
    if (input._tag !== "Rotate") continue
    ids.add(input.to)
    const [one, other] = [rootOf(input.id), rootOf(input.to)]
    if (one !== other) parents.set(one, other)
  }
  const idsOf = new Map<string, Array<string>>()
  for (const id of ids) idsOf.set(rootOf(id), [...(idsOf.get(rootOf(id)) ?? []), id])
  return [...History.partition(history, (input) => rootOf(input.id))].map(([root, part]) => [
    idsOf.get(root) ?? [],
    part
  ])
}

/** Every mark that somebody has seen. */
const seenIn = (history: ReadonlyArray<Operation>): ReadonlySet<string> => {
  const seen = new Set<string>()
  for (const one of history) {
    if (one._tag === "Done" && Array.isArray(one.output)) for (const mark of one.output) seen.add(mark)
  }
  return seen
}

/**
 * Without the unknown updates that left no trace: whatever followed one before anybody looked did as well without it, for
 * an update changes nothing but marks.
 */
const relevant = (history: ReadonlyArray<Operation>): ReadonlyArray<Operation> => {
  const seen = seenIn(history)
  return history.filter(
    (one) => one._tag !== "Unknown" || (one.input._tag === "Update" ? seen.has(one.input.mark) : !isPureRead(one.input))
  )
}

const isPureRead = ({ _tag }: Input): boolean => _tag === "Get" || _tag === "GetAndTouch" || _tag === "Exists"

/**
 * The model of the sessions of one history. Texts are numbered as a tree, in which a text comes from another by a mark;
 * it has no branch that nobody has seen, for each mark of an update that counts was seen by somebody, together with all
 * that came before it.
 */
const model = (ids: ReadonlyArray<string>, history: ReadonlyArray<Operation>): History.Model<State, Input, Output> => {
  const places = new Map(ids.map((id, place) => [id, place]))
  const seen = seenIn(history)
  const texts = new Map<string, number>()
  const written = (before: number, mark: string): number => {
    const name = `${before} ${mark}`
    const number = texts.get(name) ?? texts.size + 1
    texts.set(name, number)
    return number
  }
  const numberOf = (marks: ReadonlyArray<string>): number => marks.reduce(written, absent)
  const outputs = new Map<Output, number>()
  for (const one of history) {
    if (one._tag === "Done" && Array.isArray(one.output)) outputs.set(one.output, numberOf(one.output))
  }
  /** Texts of which nobody has seen anything are one. */
  const first = (mark: string): number => (seen.has(mark) ? written(absent, mark) : unseen)

  const at = (state: State, id: string): number => state[places.get(id) ?? -1] ?? absent
  const put = (state: State, ...changes: ReadonlyArray<readonly [id: string, value: number]>): State => {
    const next = [...state]
    for (const [id, value] of changes) next[places.get(id) ?? -1] = value
    return next
  }
  const isThere = (value: number): boolean => value !== absent && value !== gone

  const step = (
    state: State,
    operation: History.Done<Input, Output> | History.Unknown<Input>
  ): ReadonlyArray<State> => {
    const { input } = operation
    const isKnown = operation._tag === "Done"
    const output = isKnown ? operation.output : undefined
    const value = at(state, input.id)
    const result = (expected: Output, next: State): ReadonlyArray<State> =>
      !isKnown || output === expected ? [next] : []
    switch (input._tag) {
      case "Get":
      case "GetAndTouch":
        if (!isThere(value)) return result("none", state)
        return !isKnown || (output !== undefined && outputs.get(output) === value) ? [state] : []
      case "Exists":
        return result(isThere(value), state)
      case "Delete":
        return result(isThere(value), put(state, [input.id, gone]))
      case "Set":
        return value === gone ? result("SessionGone", state) : result("done", put(state, [input.id, first(input.mark)]))
      case "Create":
        return isThere(value) ? result(false, state) : result(true, put(state, [input.id, first(input.mark)]))
      case "Update": {
        if (!isThere(value)) return !isKnown || output === "none" || output === "SessionGone" ? [state] : []
        const after = texts.get(`${value} ${input.mark}`)
        if (after === undefined) return []
        return !isKnown || (output !== undefined && outputs.get(output) === after)
          ? [put(state, [input.id, after])]
          : []
      }
      case "Rotate":
        if (!isThere(value)) return !isKnown || output === false || output === "SessionGone" ? [state] : []
        return isThere(at(state, input.to))
          ? result("SessionExists", state)
          : result(true, put(state, [input.id, gone], [input.to, value]))
    }
  }

  return {
    initial: ids.map(() => absent),
    step,
    identify: (state) => state.join(),
    isRead: (input, output) => {
      switch (input._tag) {
        case "Get":
        case "GetAndTouch":
        case "Exists":
          return true
        case "Delete":
          return false
        default:
          return output === "none" || output === "SessionGone" || output === "SessionExists" || output === false
      }
    },
    interchangeable: (input) => {
      switch (input._tag) {
        case "Delete":
          return `Delete ${input.id}`
        case "Rotate":
          return `Rotate ${input.id} ${input.to}`
        case "Set":
        case "Create":
          return seen.has(input.mark) ? undefined : `${input._tag} ${input.id}`
        default:
          return undefined
      }
    }
  }
}

/** A text that nobody has seen. */
const unseen = -2
