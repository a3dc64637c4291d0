/**
 * The settings of caches as `Config`: what is not set stays out, so that what the code says holds. A wrong name or value
 * is said with its place, and with what would be right.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as HashMap from "effect/HashMap"
import * as Option from "effect/Option"
import type * as ConfirmationCache from "../../state/ConfirmationCache.ts"
import type * as SignupCache from "../../state/SignupCache.ts"
import type { FirstTier, Options } from "../cache/model.ts"
import { nearest } from "../settings/nearest.ts"
import { canonical } from "../settings/settingsEnvironment.ts"
import * as Ttl from "../ttl.ts"

/** Settings by name. Each reads itself by its name. */
export type Fields = Readonly<Record<string, Config.Config<unknown>>>

/** What is found of fields. */
export type Found<F extends Fields> = { readonly [K in keyof F]: Config.Config.Success<F[K]> }

/** The names of settings, with those of the tables among them. */
export type Names = ReadonlyMap<string, Names | undefined>

type Problem = Either.Either<never, ConfigError.ConfigError>

// -------------------------------------------------------------------------------------------------------------------
// values
// -------------------------------------------------------------------------------------------------------------------

const refused = (message: string): Problem => Either.left(ConfigError.InvalidData([], message))

/** Undefined where it is not set. */
const optional = <A>(config: Config.Config<A>): Config.Config<A | undefined> =>
  Config.map(Config.option(config), Option.getOrUndefined)

const text = (name: string) => optional(Config.nonEmptyString(name))

const boolean = (name: string) => optional(Config.boolean(name))

const oneOf = <const Names extends readonly [string, ...ReadonlyArray<string>]>(name: string, ...names: Names) =>
  optional(Config.literal<Names>(...names)(name))

// No figures in what is said: messages are shown without the text that was found, wherever it occurs in them.
const durationWords = "a duration, which is a number and its unit (millis, seconds, minutes, hours or days)"

const millisOf = (found: string): number | undefined => {
  const read = Ttl.millis(found.trim() as Duration.DurationInput)
  return Either.isRight(read) ? read.right : undefined
}

const time = (name: string) =>
  optional(
    Config.mapOrFail(Config.string(name), (found) => {
      const millis = millisOf(found)
      return millis === undefined ? refused(`expected ${durationWords}, longer than zero`) : Either.right(millis)
    })
  )

/** A duration, or none. */
const timeOrNone = (name: string) =>
  optional(
    Config.mapOrFail(Config.string(name), (found): Either.Either<number | false, ConfigError.ConfigError> => {
      if (/^(?:none|false)$/.test(found.trim())) return Either.right(false)
      const millis = millisOf(found)
      return millis === undefined
        ? refused(`expected ${durationWords}, longer than zero; or none`)
        : Either.right(millis)
    })
  )

const numberWhere = (name: string, words: string, fits: (value: number) => boolean) =>
  optional(
    Config.mapOrFail(Config.number(name), (value) => (fits(value) ? Either.right(value) : refused(`expected ${words}`)))
  )

/** A number that fits, or none. */
const numberOrNone = (name: string, words: string, fits: (value: number) => boolean) =>
  optional(
    Config.mapOrFail(Config.string(name), (found): Either.Either<number | false, ConfigError.ConfigError> => {
      const trimmed = found.trim()
      if (/^(?:none|false)$/.test(trimmed)) return Either.right(false)
      const value = trimmed === "" ? Number.NaN : Number(trimmed)
      return fits(value) ? Either.right(value) : refused(`expected ${words}; or none`)
    })
  )

const count = (name: string) =>
  numberWhere(name, "a whole number, one or more", (value) => Number.isSafeInteger(value) && value >= 1)

// -------------------------------------------------------------------------------------------------------------------
// tables
// -------------------------------------------------------------------------------------------------------------------

/** What is set of the fields. */
const values = <F extends Fields>(fields: F): Config.Config<Partial<Set<F>>> =>
  Config.map(
    Config.all(fields),
    (found) => Object.fromEntries(Object.entries(found).filter(([, value]) => value !== undefined)) as Partial<Set<F>>
  )

type Set<F extends Fields> = { readonly [K in keyof F]: Exclude<Config.Config.Success<F[K]>, undefined> }

/** A table that can be switched off: undefined where nothing is set, false where it is off. */
const part = <F extends Fields>(name: string, fields: F): Config.Config<Partial<Set<F>> | false | undefined> =>
  Config.nested(
    Config.map(Config.all({ enabled: boolean("enabled"), found: values(fields) }), ({ enabled, found }) =>
      enabled === false ? false : enabled === undefined && Object.keys(found).length === 0 ? undefined : found
    ),
    name
  )

type FieldsOf<Name extends PropertyKey> = Readonly<Record<Name & string, Config.Config<unknown>>>

// -------------------------------------------------------------------------------------------------------------------
// what caches have
// -------------------------------------------------------------------------------------------------------------------

const firstTier = { capacity: count("capacity"), ttl: time("ttl") } satisfies FieldsOf<keyof FirstTier>

const lease = {
  ttl: time("ttl"),
  wait: timeOrNone("wait")
} satisfies FieldsOf<keyof Exclude<Options<unknown, unknown>["lease"], false | undefined>>

/** What is code and no setting: `strict` changes the type of a handle. */
type NotData = "namespace" | "schema" | "strict"

export const cache = {
  ttl: time("ttl"),
  jitter: numberWhere("jitter", "a part, from none of it (0) to all of it (1)", (value) => value >= 0 && value <= 1),
  staleFor: timeOrNone("staleFor"),
  graceFor: timeOrNone("graceFor"),
  graceBackoff: timeOrNone("graceBackoff"),
  earlyRefresh: numberWhere("earlyRefresh", "a factor, zero or more", (value) => value >= 0 && Number.isFinite(value)),
  negativeTtl: time("negativeTtl"),
  firstTier: part("firstTier", firstTier),
  compressAbove: numberOrNone("compressAbove", "a number of bytes, zero or more", (value) => value >= 0),
  trusted: boolean("trusted"),
  version: text("version"),
  lease: part("lease", lease),
  clearBy: oneOf("clearBy", "scan", "generation")
} satisfies FieldsOf<Exclude<keyof Options<unknown, unknown>, NotData>>

const quota = { codes: count("codes"), within: time("within") } satisfies FieldsOf<
  keyof Exclude<ConfirmationCache.Settings["quota"], false | undefined>
>

export const confirmation = {
  ttl: time("ttl"),
  length: count("length"),
  alphabet: text("alphabet"),
  attempts: count("attempts"),
  resendAfter: timeOrNone("resendAfter"),
  quota: part("quota", quota),
  secret: optional(Config.redacted("secret"))
} satisfies FieldsOf<Exclude<keyof ConfirmationCache.Settings, "name" | "prefix">>

export const signup = {
  ttl: time("ttl"),
  onPending: oneOf("onPending", "keep", "replace"),
  secret: optional(Config.redacted("secret"))
} satisfies FieldsOf<Exclude<keyof SignupCache.Settings, "name" | "prefix">>

/** What every one has. */
export const common = { kind: text("kind"), prefix: text("prefix") }

const tables: Readonly<Record<string, Fields>> = { firstTier, lease, quota }

/** The names of fields, the tables that are known here with theirs. */
export const namesOf = (...all: ReadonlyArray<Fields>): Names =>
  new Map(
    all.flatMap((fields) =>
      Object.keys(fields).map((name): [string, Names | undefined] => {
        const table = tables[name]
        return [name, table === undefined ? undefined : new Map([["enabled", undefined], ...namesOf(table)])]
      })
    )
  )

/** One setting over another: where it is a table, its own settings are. */
export const over = <A>(higher: A | undefined, lower: A | undefined): A | undefined =>
  higher === undefined ? lower : isTable(higher) && isTable(lower) ? { ...lower, ...higher } : higher

const isTable = (value: unknown): value is object =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype

/** Settings over others, one by one. */
export const allOver = <A extends object>(higher: A, lower: A): A => {
  const merged = new Map<string, unknown>(Object.entries(lower))
  for (const [name, value] of Object.entries(higher)) merged.set(name, over(value, merged.get(name)))
  return Object.fromEntries(merged) as A
}

// -------------------------------------------------------------------------------------------------------------------
// reading
// -------------------------------------------------------------------------------------------------------------------

const nest = <A>(path: ReadonlyArray<string>, config: Config.Config<A>): Config.Config<A> =>
  path.reduceRight<Config.Config<A>>((inner, name) => Config.nested(inner, name), config)

/** What is read at a path, or every problem there. */
export const read = <F extends Fields>(
  path: ReadonlyArray<string>,
  fields: F
): Effect.Effect<Partial<Set<F>>, ReadonlyArray<string>> => Effect.mapError(nest(path, values(fields)), problemsOf)

/** All of the fields at a path, or every problem there. */
export const readAll = (
  path: ReadonlyArray<string>,
  fields: Fields
): Effect.Effect<Readonly<Record<string, unknown>>, ReadonlyArray<string>> =>
  // of no fields at all a configuration cannot be made
  Object.keys(fields).length === 0 ? Effect.succeed({}) : Effect.mapError(nest(path, Config.all(fields)), problemsOf)

/** A problem with the place of a setting, where the provider knows it. */
export const problemAt = (
  path: ReadonlyArray<string>,
  name: string,
  message: string
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.match(
    nest(
      path,
      // it succeeds first and then refuses, so that the message is shown as it is
      Config.mapOrFail(Config.succeed(name), () => Either.left(ConfigError.InvalidData([name], message)))
    ),
    { onFailure: problemsOf, onSuccess: () => [] }
  )

/** The names in the table at a path. */
export const namesAt = (path: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<string>, ReadonlyArray<string>> =>
  Effect.mapError(
    Effect.map(nest(path, Config.option(Config.hashMap(Config.succeed(true)))), (found) => [
      ...HashMap.keys(Option.getOrElse(found, HashMap.empty<string, boolean>))
    ]),
    problemsOf
  )

/**
 * The problems of what is no setting in the table at a path. A name that only begins the name of a variable
 * (`CACHES_USERS_STALE` of `CACHES_USERS_STALE_FOR`) is none.
 */
export const unknown = (
  path: ReadonlyArray<string>,
  names: Names,
  what: string
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.matchEffect(namesAt(path), {
    onFailure: Effect.succeed,
    onSuccess: (found) =>
      Effect.map(
        Effect.forEach(found, (name) => {
          const known = [...names].find(([one]) => canonical(one) === canonical(name))
          if (known !== undefined) {
            const [own, inner] = known
            return inner === undefined ? Effect.succeed([]) : unknown([...path, own], inner, `${own} of ${what}`)
          }
          return Effect.flatMap(stands(path, name), (there) =>
            there
              ? problemAt(
                  path,
                  name,
                  `there is no such setting${nearest(name, names.keys())}; those of ${what} are ${[...names.keys()].join(", ")}`
                )
              : Effect.succeed([])
          )
        }),
        (all) => all.flat()
      )
  })

/** Whether there is something at exactly this path. */
const stands = (path: ReadonlyArray<string>, name: string): Effect.Effect<boolean> =>
  Effect.match(nest(path, Config.string(name)), {
    onSuccess: () => true,
    onFailure: (error) => !ConfigError.isMissingDataOnly(error)
  })

/** Every problem of a configuration, each with its path, and without its value. */
export const problemsOf = (error: ConfigError.ConfigError): ReadonlyArray<string> => {
  if (error._op === "And" || error._op === "Or") return [...problemsOf(error.left), ...problemsOf(error.right)]
  const path = error.path.join(".")
  // the provider of core's settings says the place and the path itself
  return [path === "" || error.message.includes(path) ? error.message : `${path}: ${error.message}`]
}
