/**
 * Reads an Effect `Config` from the sources. Effect's own reading of a flat provider cannot tell an empty list from a
 * missing one and stops at messages without a place, so the description is followed here; a kind of description that is
 * not known is left to Effect's own reading.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as PathPatch from "effect/ConfigProviderPathPatch"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as HashMap from "effect/HashMap"
import * as HashSet from "effect/HashSet"
import * as Predicate from "effect/Predicate"
import { formatProblem, type Problem } from "../../config/SettingsError.ts"
import { isSecretName } from "../../operations/Redaction.ts"
import { invalid, missing, pathText, withoutValues } from "./settingsDescribe.ts"
import type { Found, Sources } from "./settingsTree.ts"

/** Why a description could not be read: for Effect, and for people. */
export interface Failure {
  readonly error: ConfigError.ConfigError
  readonly problems: ReadonlyArray<Problem>
}

/** What was asked for, to be explained later. */
export interface Journal {
  readonly asked: (path: ReadonlyArray<string>) => void
  readonly secret: (path: ReadonlyArray<string>) => void
}

// The forms that a description can take, as far as they are followed here.
type Form =
  | { readonly _tag: "Constant"; readonly value: unknown }
  | { readonly _tag: "Described"; readonly config: Config.Config<unknown>; readonly description: string }
  | { readonly _tag: "Fail"; readonly message: string }
  | {
      readonly _tag: "Fallback"
      readonly first: Config.Config<unknown>
      readonly second: Config.Config<unknown>
      readonly condition: Predicate.Predicate<ConfigError.ConfigError>
    }
  | { readonly _tag: "Lazy"; config(): Config.Config<unknown> }
  | {
      readonly _tag: "MapOrFail"
      readonly original: Config.Config<unknown>
      mapOrFail(value: unknown): Either.Either<unknown, ConfigError.ConfigError>
    }
  | { readonly _tag: "Nested"; readonly name: string; readonly config: Config.Config<unknown> }
  | { readonly _tag: "Primitive" }
  | { readonly _tag: "Redacted"; readonly original: Config.Config<unknown>; redact(value: unknown): unknown }
  | { readonly _tag: "Sequence"; readonly config: Config.Config<unknown> }
  | { readonly _tag: "HashMap"; readonly valueConfig: Config.Config<unknown> }
  | {
      readonly _tag: "ZipWith"
      readonly left: Config.Config<unknown>
      readonly right: Config.Config<unknown>
      zip(a: unknown, b: unknown): unknown
    }

const has = (u: object, ...names: ReadonlyArray<string>): boolean => names.every((name) => name in u)

const isForm = (u: unknown): u is Form => {
  if (!Predicate.hasProperty(u, "_tag")) {
    return false
  }
  switch (u._tag) {
    case "Constant":
      return has(u, "value")
    case "Described":
      return has(u, "config", "description")
    case "Fail":
      return has(u, "message")
    case "Fallback":
      return has(u, "first", "second", "condition")
    case "Lazy":
      return has(u, "config")
    case "MapOrFail":
      return has(u, "original", "mapOrFail")
    case "Nested":
      return has(u, "name", "config")
    case "Primitive":
      return has(u, "description", "parse")
    case "Redacted":
      return has(u, "original", "redact")
    case "Sequence":
      return has(u, "config")
    case "HashMap":
      return has(u, "valueConfig")
    case "ZipWith":
      return has(u, "left", "right", "zip")
    default:
      return false
  }
}

const isPrimitive = (u: unknown): u is Config.Config.Primitive<unknown> =>
  Predicate.hasProperty(u, "_tag") && u._tag === "Primitive" && Predicate.hasProperty(u, "parse")

interface Place {
  readonly path: ReadonlyArray<string>
  /** The item of a list that was written as one text (`a,b,c`), where the path alone does not find it. */
  readonly here: Found | undefined
  readonly secret: boolean
  readonly description: string | undefined
}

const failure = (problem: Problem, path: ReadonlyArray<string>): Failure => {
  const message = formatProblem(problem)
  return {
    error:
      problem.reason === "missing"
        ? ConfigError.MissingData([...path], message)
        : ConfigError.InvalidData([...path], message),
    problems: [problem]
  }
}

const both = (left: Failure, right: Failure): Failure => ({
  error: ConfigError.And(left.error, right.error),
  problems: [...left.problems, ...right.problems]
})

/** The single errors in an error, one at least. */
const leavesOf = (
  error: ConfigError.ConfigError
): ReadonlyArray<Exclude<ConfigError.ConfigError, ConfigError.And | ConfigError.Or>> =>
  error._op === "And" || error._op === "Or" ? [...leavesOf(error.left), ...leavesOf(error.right)] : [error]

/** The lines of an error of Effect's own, as problems. */
export const problemsOf = (
  error: ConfigError.ConfigError,
  shown: (message: string) => string | undefined
): ReadonlyArray<Problem> => {
  switch (error._op) {
    case "And":
    case "Or":
      return [...problemsOf(error.left, shown), ...problemsOf(error.right, shown)]
    default: {
      const detail = shown(error.message)
      return [
        {
          reason: error._op === "MissingData" ? "missing" : "invalid",
          path: pathText(error.path),
          ...(detail === undefined ? {} : { detail })
        }
      ]
    }
  }
}

const articled = (description: string): string =>
  description
    .replace(/ property$/, "")
    .replace(/^an URL$/, "a URL")
    .replace(/^a text$/, "text")
    .replace(/^a non-empty text$/, "text that is not empty")

// Effect reads an empty text as the number 0.
const parse = <A>(op: Config.Config.Primitive<A>, text: string): Either.Either<A, ConfigError.ConfigError> =>
  text.trim() === "" && /\b(?:number|integer|port)\b/.test(op.description)
    ? Either.left(ConfigError.InvalidData([], "empty"))
    : op.parse(text)

/** The items of a list that is written as one text. */
export const splitText = (found: Extract<Found, { _tag: "Scalar" }>): ReadonlyArray<Found> =>
  found.text.trim() === ""
    ? []
    : found.text
        .split(",")
        .map((item) => ({ _tag: "Scalar", value: item.trim(), text: item.trim(), origin: found.origin }))

/** Whether an empty text at this path counts as no value: an empty password is no password. */
export const emptyIsNone = (path: ReadonlyArray<string>, secret: boolean): boolean =>
  secret || isSecretName(path.findLast((segment) => !segment.startsWith("[")) ?? "")

export const makeReader = (sources: Sources, journal: Journal) => {
  const lookup = (place: Place): Effect.Effect<Found, Failure> =>
    place.here !== undefined
      ? Effect.succeed(place.here)
      : Effect.mapError(sources.at(place.path), (problem) =>
          failure({ ...problem, path: pathText(place.path) }, place.path)
        )

  const primitive = (
    op: Config.Config.Primitive<unknown>,
    place: Place,
    values: Array<string>
  ): Effect.Effect<unknown, Failure> =>
    Effect.flatMap(lookup(place), (found) => {
      journal.asked(place.path)
      if (place.secret) {
        journal.secret(place.path)
      }
      const expected = articled(op.description)
      switch (found._tag) {
        case "Nothing":
        case "Absent":
          return Effect.fail(failure(missing(place.path, found, expected), place.path))
        case "Table":
        case "List":
        case "Numbered":
          return Effect.fail(failure(invalid(place.path, found, expected), place.path))
        case "Scalar": {
          if (found.text === "" && emptyIsNone(place.path, place.secret)) {
            return Effect.fail(failure(missing(place.path, found, expected), place.path))
          }
          values.push(found.text)
          const text = typeof found.value === "boolean" ? String(found.value) : found.text
          return Effect.mapError(parse(op, text), (error) =>
            failure(
              error._op === "MissingData" ? missing(place.path, found, expected) : invalid(place.path, found, expected),
              place.path
            )
          )
        }
      }
    })

  // `values` collects the texts that were read, so that no message quotes them.
  const follow = (config: unknown, place: Place, values: Array<string>): Effect.Effect<unknown, Failure> =>
    Effect.suspend((): Effect.Effect<unknown, Failure> => {
      if (isPrimitive(config)) {
        return primitive(config, place, values)
      }
      if (!isForm(config) || config._tag === "Primitive") {
        return Config.isConfig(config) ? unknown(config, place) : Effect.succeed(config)
      }
      switch (config._tag) {
        case "Constant":
          return Effect.succeed(config.value)
        case "Described":
          return follow(config.config, { ...place, description: config.description }, values)
        case "Fail":
          return Effect.fail({
            error: ConfigError.MissingData([...place.path], config.message),
            problems: [{ reason: "missing", path: pathText(place.path), detail: config.message }]
          })
        case "Lazy":
          return follow(config.config(), place, values)
        case "Nested":
          return follow(
            config.config,
            { ...place, path: [...place.path, config.name], here: undefined, description: undefined },
            values
          )
        case "Fallback":
          return Effect.catchAll(follow(config.first, place, values), (first) =>
            config.condition(first.error)
              ? Effect.mapError(follow(config.second, place, values), (second) => ({
                  error: ConfigError.Or(first.error, second.error),
                  problems: [...first.problems, ...second.problems]
                }))
              : Effect.fail(first)
          )
        case "MapOrFail": {
          const own: Array<string> = []
          return Effect.flatMap(
            Effect.ensuring(
              follow(config.original, place, own),
              Effect.sync(() => values.push(...own))
            ),
            (value) =>
              Either.match(config.mapOrFail(value), {
                onRight: Effect.succeed,
                onLeft: (error) => mapFailure(error, config.original, place, own)
              })
          )
        }
        case "Redacted":
          return Effect.map(follow(config.original, { ...place, secret: true }, values), (value) =>
            config.redact(value)
          )
        case "Sequence":
          return Effect.flatMap(lookup(place), (found) => items(found, config.config, place, values))
        case "HashMap":
          return Effect.flatMap(lookup(place), (found) => table(found, config.valueConfig, place, values))
        case "ZipWith":
          return Effect.flatMap(Effect.either(follow(config.left, place, values)), (left) =>
            Effect.flatMap(Effect.either(follow(config.right, place, values)), (right) => {
              if (Either.isLeft(left)) {
                return Effect.fail(Either.isLeft(right) ? both(left.left, right.left) : left.left)
              }
              return Either.isLeft(right)
                ? Effect.fail(right.left)
                : Effect.succeed(config.zip(left.right, right.right))
            })
          )
      }
    })

  const unknown = (config: Config.Config<unknown>, place: Place): Effect.Effect<unknown, Failure> =>
    Effect.mapError(
      ConfigProvider.fromFlat(flat).load(
        place.path.reduceRight<Config.Config<unknown>>((inner, name) => Config.nested(inner, name), config)
      ),
      (error) => ({ error, problems: problemsOf(error, (message) => (place.secret ? undefined : message)) })
    )

  // A value was read, but a check or a transformation of the program refuses it.
  const mapFailure = (
    error: ConfigError.ConfigError,
    original: Config.Config<unknown>,
    place: Place,
    values: ReadonlyArray<string>
  ): Effect.Effect<never, Failure> => {
    let inner: unknown = original
    let path = place.path
    let secret = place.secret
    while (isForm(inner) && inner._tag !== "Primitive") {
      if (inner._tag === "Nested") {
        path = [...path, inner.name]
        inner = inner.config
      } else if (inner._tag === "Described" || inner._tag === "Sequence") {
        inner = inner.config
      } else if (inner._tag === "MapOrFail" || inner._tag === "Redacted") {
        secret = secret || inner._tag === "Redacted"
        inner = inner.original
      } else {
        break
      }
    }
    const base = path
    const refused = Effect.forEach(leavesOf(error), (leaf) => {
      // a check of several settings at once says itself which of them it means
      const at = leaf.path.length === 0 ? base : [...base, ...leaf.path]
      const hidden = secret || emptyIsNone(at, secret)
      const here = at === place.path ? place.here : undefined
      return Effect.map(lookup({ ...place, path: at, here }), (found): Failure => {
        const [problem] = problemsOf(leaf, (message) => (hidden ? undefined : withoutValues(message, values)))
        return failure(
          leaf._op === "MissingData"
            ? missing(at, found, place.description)
            : invalid(
                at,
                found,
                place.description,
                problem?.detail ?? (place.description === undefined ? "it is not accepted" : undefined)
              ),
          at
        )
      })
    })
    return Effect.flatMap(refused, (failures) => Effect.fail(failures.reduce(both)))
  }

  const each = (
    places: ReadonlyArray<Place>,
    config: Config.Config<unknown>,
    values: Array<string>
  ): Effect.Effect<Array<unknown>, Failure> =>
    Effect.flatMap(
      Effect.forEach(places, (place) => Effect.either(follow(config, place, values))),
      (results) => {
        const failures = results.flatMap((result) => (Either.isLeft(result) ? [result.left] : []))
        const [first, ...rest] = failures
        return first === undefined
          ? Effect.succeed(results.flatMap((result) => (Either.isRight(result) ? [result.right] : [])))
          : Effect.fail(rest.reduce(both, first))
      }
    )

  const items = (
    found: Found,
    config: Config.Config<unknown>,
    place: Place,
    values: Array<string>
  ): Effect.Effect<Array<unknown>, Failure> => {
    const at = (index: number, here: Found | undefined): Place => ({
      ...place,
      path: [...place.path, `[${index}]`],
      here,
      description: undefined
    })
    journal.asked(place.path)
    switch (found._tag) {
      case "Nothing":
      case "Absent":
        return Effect.fail(failure(missing(place.path, found, place.description ?? "a list"), place.path))
      case "Table":
        return Effect.fail(failure(invalid(place.path, found, place.description ?? "a list"), place.path))
      case "List":
        return each(
          found.items.map((item, index) => at(index, item._tag === "Scalar" ? item : undefined)),
          config,
          values
        )
      case "Numbered":
        return each(
          Array.from({ length: found.count }, (_, index) => at(index, undefined)),
          config,
          values
        )
      case "Scalar":
        return each(
          splitText(found).map((item, index) => at(index, item)),
          config,
          values
        )
    }
  }

  const table = (
    found: Found,
    config: Config.Config<unknown>,
    place: Place,
    values: Array<string>
  ): Effect.Effect<HashMap.HashMap<string, unknown>, Failure> => {
    if (found._tag === "Scalar" || found._tag === "List") {
      return Effect.fail(failure(invalid(place.path, found, place.description ?? "a table"), place.path))
    }
    const names = sources.names(place.path)
    if (names.length === 0 && found._tag !== "Table") {
      return Effect.fail(failure(missing(place.path, found, place.description ?? "a table"), place.path))
    }
    return Effect.map(
      each(
        names.map((name) => ({ ...place, path: [...place.path, name], here: undefined, description: undefined })),
        config,
        values
      ),
      (read) => HashMap.fromIterable(names.map((name, index): [string, unknown] => [name, read[index]]))
    )
  }

  const read = (config: Config.Config<unknown>): Effect.Effect<unknown, Failure> =>
    follow(config, { path: [], here: undefined, secret: false, description: undefined }, [])

  // For combinators of Effect that take a provider apart (`nested`, `orElse`, …).
  const flat = ConfigProvider.makeFlat({
    load: <A>(path: ReadonlyArray<string>, op: Config.Config.Primitive<A>, split: boolean) =>
      Effect.gen(function* () {
        const fail = (problem: Problem) => Effect.fail(failure(problem, path).error)
        const expected = articled(op.description)
        const found = yield* Effect.catchAll(sources.at(path), (problem) => fail({ ...problem, path: pathText(path) }))
        journal.asked(path)
        if (found._tag === "Nothing" || found._tag === "Absent") {
          return yield* fail(missing(path, found, expected))
        }
        if (found._tag !== "Scalar") {
          return yield* fail(invalid(path, found, expected))
        }
        if (found.text === "" && emptyIsNone(path, false)) {
          return yield* fail(missing(path, found, expected))
        }
        const whole = !split || path.at(-1)?.startsWith("[") === true
        const texts = whole
          ? [found.text]
          : splitText(found).flatMap((item) => (item._tag === "Scalar" ? [item.text] : []))
        return yield* Effect.forEach(texts, (text) =>
          Effect.catchAll(parse(op, text), () => fail(invalid(path, found, expected)))
        )
      }),
    enumerateChildren: (path) =>
      Effect.map(
        Effect.mapError(sources.at(path), (problem) => failure(problem, path).error),
        (found) =>
          HashSet.fromIterable(
            found._tag === "List"
              ? found.items.map((_, index) => `[${index}]`)
              : found._tag === "Numbered"
                ? Array.from({ length: found.count }, (_, index) => `[${index}]`)
                : sources.names(path)
          )
      ),
    patch: PathPatch.empty
  })

  return { read, flat }
}
