/**
 * A session store as a pure model, and the property that a real one does the same: random commands are run on both, and
 * every answer is compared. For whoever writes an adapter; the suite tells the rules one by one, this finds what nobody
 * thought of.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What the property needs. The store has its default options, but for `touchWhen`, which is told here.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /** Makes a store without sessions, or one over data that does not disturb: ids and owners are new in every run. */
  readonly store: Effect.Effect<SessionStore.Service, unknown, R>
  /** Lets time pass for the store. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  readonly touchWhen: number
  /** How many sequences of commands are tried. Default: 20. */
  readonly runs?: number | undefined
  /** How many commands a sequence has at most. Default: 60. */
  readonly commands?: number | undefined
  /** Whether a sequence that fails is made shorter as long as it fails. Default: true. */
  readonly shrink?: boolean | undefined
}

/**
 * Runs the property; fails with the shortest sequence of commands that was found on which store and model differ.
 *
 * @since 0.1.0
 * @category testing
 */
export const property = <R>(options: Options<R>): Effect.Effect<void, Suite.SuiteFailure, R> =>
  Effect.flatMap(Effect.runtime<R>(), (runtime) =>
    Effect.flatMap(
      Effect.promise(() => {
        const run = Runtime.runPromise(runtime)
        return FastCheck.check(
          FastCheck.asyncProperty(commands(options.commands ?? 60), (all) =>
            run(
              Effect.gen(function* () {
                const store = yield* options.store
                const prefix = yield* SessionStore.makeId
                const model = makeModel(options.touchWhen)
                for (const command of all) {
                  if (command._tag === "Advance") {
                    model.now += command.millis
                    yield* options.advance(Duration.millis(command.millis))
                    continue
                  }
                  const actual = yield* onStore(store, prefix, command)
                  yield* Suite.equal(show(command), actual, onModel(model, command))
                }
              })
            )
          ),
          { numRuns: options.runs ?? 20, endOnFailure: options.shrink === false }
        )
      }),
      (details) =>
        details.failed
          ? Effect.fail(
              new Suite.SuiteFailure({
                expectation: `${details.numRuns} runs, seed ${details.seed}`,
                expected: "the answers of the model",
                actual: `${details.error ?? ""}\n${(details.counterexample?.[0] ?? []).map(show).join("\n")}`
              })
            )
          : Effect.void
    )
  )

type Command =
  | { readonly _tag: "Advance"; readonly millis: number }
  | { readonly _tag: "Get" | "Exists" | "Delete"; readonly id: number }
  | { readonly _tag: "Set" | "Create"; readonly id: number; readonly owner: number; readonly ttl: number }
  | { readonly _tag: "Update"; readonly id: number; readonly owner: number; readonly ttl: number }
  | { readonly _tag: "Touch" | "Extend"; readonly id: number; readonly ttl: number }
  | { readonly _tag: "Rotate"; readonly id: number; readonly to: number }
  | { readonly _tag: "DeleteMany"; readonly ids: ReadonlyArray<number> }
  | { readonly _tag: "SessionsOf" | "DeleteAllOf"; readonly owner: number }
  | { readonly _tag: "CleanUp" }

const show = (command: Command): string => JSON.stringify(command)

// steps that never add up to a time to live, to its part or to a tombstone: a real server's milliseconds do not matter
const step = 11_300

const commands = (maxLength: number): FastCheck.Arbitrary<ReadonlyArray<Command>> => {
  const id = FastCheck.nat(2)
  // 0 is nobody
  const owner = FastCheck.nat(2)
  // 0 is the default
  const ttl = FastCheck.constantFrom(0, 0, 60_000, 600_000, 18_000_000)
  const of = <const T extends Command["_tag"], A extends object>(
    _tag: T,
    fields: { [K in keyof A]: FastCheck.Arbitrary<A[K]> }
  ) => FastCheck.record<A>(fields).map((all) => ({ _tag, ...all }))
  const command: FastCheck.Arbitrary<Command> = FastCheck.oneof(
    {
      weight: 4,
      arbitrary: of("Advance", { millis: FastCheck.constantFrom(1, 1, 3, 7, 40, 150).map((n) => n * step) })
    },
    { weight: 2, arbitrary: of("Get", { id }) },
    of("Exists", { id }),
    { weight: 2, arbitrary: of("Delete", { id }) },
    { weight: 4, arbitrary: of("Set", { id, owner, ttl }) },
    { weight: 4, arbitrary: of("Create", { id, owner, ttl }) },
    { weight: 4, arbitrary: of("Update", { id, owner, ttl }) },
    { weight: 3, arbitrary: of("Touch", { id, ttl }) },
    { weight: 2, arbitrary: of("Extend", { id, ttl }) },
    { weight: 3, arbitrary: of("Rotate", { id, to: id }) },
    of("DeleteMany", { ids: FastCheck.array(id, { maxLength: 4 }) }),
    { weight: 2, arbitrary: of("SessionsOf", { owner: FastCheck.integer({ min: 1, max: 2 }) }) },
    of("DeleteAllOf", { owner: FastCheck.integer({ min: 1, max: 2 }) }),
    of("CleanUp", {})
  )
  return FastCheck.array(command, { minLength: 1, maxLength, size: "max" })
}

/** What a command gives back, as plain data: the number in a session stands for the session. */
type Answer = string | number | boolean | ReadonlyArray<string>

const numberIn = (session: Option.Option<SessionStore.Session>): Answer =>
  Option.isNone(session) ? "none" : Number(session.value["n"])

const onStore = (store: SessionStore.Service, prefix: string, command: Exclude<Command, { _tag: "Advance" }>) => {
  const name = (id: number): string => `${prefix}-${id}`
  const session = (n: number, owner: number): SessionStore.Session => ({
    n,
    ...(owner === 0 ? {} : { user_id: `${prefix}-owner-${owner}` })
  })
  const options = (ttl: number) => (ttl === 0 ? {} : { ttl })
  const run = (): Effect.Effect<Answer, SessionStore.SessionStoreError> => {
    switch (command._tag) {
      case "Get":
        return Effect.map(store.get(name(command.id)), numberIn)
      case "Exists":
        return store.exists(name(command.id))
      case "Delete":
        return store.delete(name(command.id))
      case "Set":
        return Effect.as(store.set(name(command.id), session(1, command.owner), options(command.ttl)), "done")
      case "Create":
        return store.create(name(command.id), session(1, command.owner), options(command.ttl))
      case "Update":
        return Effect.map(
          store.update(
            name(command.id),
            (before) => session(Number(before["n"]) + 1, command.owner),
            options(command.ttl)
          ),
          numberIn
        )
      case "Touch":
        return Effect.map(
          command.ttl === 0 ? store.getAndTouch(name(command.id)) : store.getAndTouch(name(command.id), command.ttl),
          numberIn
        )
      case "Extend":
        return command.ttl === 0 ? store.extendTtl(name(command.id)) : store.extendTtl(name(command.id), command.ttl)
      case "Rotate":
        return Effect.map(store.rotate(name(command.id), name(command.to)), Option.isSome)
      case "DeleteMany":
        return store.deleteMany(command.ids.map(name))
      case "SessionsOf":
        return Effect.map(store.sessionsOf(`${prefix}-owner-${command.owner}`), (all) =>
          all.map((one) => `${one.id.slice(prefix.length + 1)}:${one.session["n"]}`).sort()
        )
      case "DeleteAllOf":
        return store.deleteAllOf(`${prefix}-owner-${command.owner}`)
      case "CleanUp":
        return Effect.as(store.cleanUp(), "done")
    }
  }
  return Effect.map(
    Effect.either(run()),
    Either.getOrElse((error): Answer => error.reason)
  )
}

interface Kept {
  readonly n: number
  readonly owner: number
  readonly until: number
}

interface Model {
  now: number
  readonly touchWhen: number
  readonly sessions: Map<number, Kept>
  readonly tombstones: Map<number, number>
}

const makeModel = (touchWhen: number): Model => ({ now: 0, touchWhen, sessions: new Map(), tombstones: new Map() })

const usual = 1_800_000

const onModel = (model: Model, command: Exclude<Command, { _tag: "Advance" }>): Answer => {
  const { now, sessions, tombstones } = model
  for (const [id, kept] of sessions) if (kept.until <= now) sessions.delete(id)
  const isGone = (id: number): boolean => (tombstones.get(id) ?? 0) > now
  const bury = (id: number): boolean => {
    tombstones.set(id, now + 60_000)
    return sessions.delete(id)
  }
  const owned = (owner: number) => [...sessions].filter(([, kept]) => kept.owner === owner)
  switch (command._tag) {
    case "Get":
      return sessions.get(command.id)?.n ?? "none"
    case "Exists":
      return sessions.has(command.id)
    case "Delete":
      return bury(command.id)
    case "Set": {
      if (isGone(command.id)) return "SessionGone"
      sessions.set(command.id, { n: 1, owner: command.owner, until: now + (command.ttl || usual) })
      return "done"
    }
    case "Create": {
      if (sessions.has(command.id)) return false
      tombstones.delete(command.id)
      sessions.set(command.id, { n: 1, owner: command.owner, until: now + (command.ttl || usual) })
      return true
    }
    case "Update": {
      const kept = sessions.get(command.id)
      if (kept === undefined) return isGone(command.id) ? "SessionGone" : "none"
      const until = command.ttl === 0 ? kept.until : now + command.ttl
      sessions.set(command.id, { n: kept.n + 1, owner: command.owner, until })
      return kept.n + 1
    }
    case "Touch": {
      const kept = sessions.get(command.id)
      if (kept === undefined) return "none"
      const matters = kept.until - now < usual * (1 - model.touchWhen)
      const until = command.ttl !== 0 ? now + command.ttl : matters ? now + usual : kept.until
      sessions.set(command.id, { ...kept, until })
      return kept.n
    }
    case "Extend": {
      const kept = sessions.get(command.id)
      if (kept === undefined) return false
      sessions.set(command.id, { ...kept, until: Math.max(kept.until, now + (command.ttl || usual)) })
      return true
    }
    case "Rotate": {
      if (command.id === command.to) return "SessionExists"
      const kept = sessions.get(command.id)
      if (kept === undefined) return isGone(command.id) ? "SessionGone" : false
      if (sessions.has(command.to)) return "SessionExists"
      bury(command.id)
      tombstones.delete(command.to)
      sessions.set(command.to, kept)
      return true
    }
    case "DeleteMany":
      return [...new Set(command.ids)].filter(bury).length
    case "SessionsOf":
      return owned(command.owner)
        .map(([id, kept]) => `${id}:${kept.n}`)
        .sort()
    case "DeleteAllOf":
      return owned(command.owner).filter(([id]) => bury(id)).length
    case "CleanUp":
      return "done"
  }
}
