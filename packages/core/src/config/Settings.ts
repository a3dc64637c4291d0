/**
 * Layered configuration with provenance: defaults, YAML files, profile files, `.env`, environment and explicit overrides
 * become one `ConfigProvider`, and everything that is wrong is said at once, with the place where it stands.
 *
 * @since 0.1.0
 */
import * as FileSystem from "@effect/platform/FileSystem"
import type * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as Context from "effect/Context"
import * as EffectDuration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import { makeReader } from "../internal/settings/settingsConfig.ts"
import { originOf, pathFrom, pathText } from "../internal/settings/settingsDescribe.ts"
import { makeEnvironment, parseDotEnv, type Variable } from "../internal/settings/settingsEnvironment.ts"
import { readSection } from "../internal/settings/settingsSchema.ts"
import { find, fromData, makeSources, merge, type Sources } from "../internal/settings/settingsTree.ts"
import * as Redaction from "../operations/Redaction.ts"
import { formatOrigin, type Origin, type Problem, SettingsError } from "./SettingsError.ts"
import * as YamlConfig from "./YamlConfig.ts"

export {
  formatProblem,
  /**
   * @since 0.1.0
   * @category models
   */
  Origin,
  /**
   * @since 0.1.0
   * @category models
   */
  Problem,
  /**
   * @since 0.1.0
   * @category errors
   */
  SettingsError
} from "./SettingsError.ts"

/**
 * Where settings come from, lowest first: `defaults`, the YAML `files` in order, their profile files, the `.env` file, the
 * environment, `overrides`. Tables are merged by name; everything else, lists too, is replaced whole.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** The folder of the files; by default `resources`, which may be absent. */
  readonly directory?: string | undefined
  /**
   * The files, which then must exist. By default those of `defaultFiles` that exist.
   */
  readonly files?: ReadonlyArray<string> | undefined
  /**
   * The profile or profiles: for each, `application-db.yaml` is followed by `application-db-<profile>.yaml` if that exists.
   * By default those that the variable `APP_PROFILE` names, separated by commas.
   */
  readonly profile?: string | ReadonlyArray<string> | undefined
  /** Data below every file. Names may be paths: `{ "redis.port": 6379 }`. */
  readonly defaults?: Readonly<Record<string, unknown>> | undefined
  /** Data above everything else, for instance from the command line. */
  readonly overrides?: Readonly<Record<string, unknown>> | undefined
  /** The environment; by default that of the process. */
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
  /** The `.env` file, the lowest source of the environment; by default `.env`, which may be absent. `false` reads none. */
  readonly dotenv?: string | false | undefined
}

/**
 * The files that are read when none are named, each with `.yaml` or `.yml`.
 *
 * @since 0.1.0
 * @category constants
 */
export const defaultFiles: ReadonlyArray<string> = [
  "application",
  "application-db",
  "application-cache",
  "application-llm",
  "application-vector",
  "application-external"
]

/**
 * The merged settings.
 *
 * @since 0.1.0
 * @category tags
 */
export class Settings extends Context.Tag("@underlay/core/Settings")<
  Settings,
  {
    /** The one provider of all settings. */
    readonly provider: ConfigProvider.ConfigProvider
    /**
     * The settings without the environment: defaults, files (their `${…}` substituted) and overrides. For what ranks its
     * variables below the files, as the address of a Redis server does.
     */
    readonly files: ConfigProvider.ConfigProvider
    /** Reads a `Config`; the error lists every problem in it. */
    readonly load: <A>(config: Config.Config<A>) => Effect.Effect<A, SettingsError>
    /** Reads the section at a path (`"llm"`, `"llm.providers"`, `""` for everything) by a schema, all problems at once. */
    readonly section: <A, I>(path: string, schema: Schema.Schema<A, I>) => Effect.Effect<A, SettingsError>
    /** Where the value of a path comes from, if it has one. */
    readonly origin: (path: string) => Effect.Effect<Option.Option<Origin>>
    /** One line for each setting: its path, its value (secrets redacted) and where it comes from. */
    readonly explain: Effect.Effect<string>
  }
>() {}

const processEnvironment = Effect.sync(
  (): Readonly<Record<string, string | undefined>> => (globalThis.process === undefined ? {} : globalThis.process.env)
)

// What several steps find wrong, together.
const gather = <A>(
  problems: Array<Problem>,
  effect: Effect.Effect<A, SettingsError>
): Effect.Effect<Option.Option<A>> =>
  Effect.matchEffect(effect, {
    onFailure: (error) =>
      Effect.sync(() => {
        problems.push(...error.problems)
        return Option.none()
      }),
    onSuccess: Effect.succeedSome
  })

const unreadable = (file: string, expected: string): SettingsError =>
  new SettingsError({
    problems: [{ reason: "unreadable", path: "", origin: { type: "file", file, line: 1, column: 1 }, expected }]
  })

const profileName = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/

/**
 * Reads all sources once and merges them. Fails with every problem of every file.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (
  options: Options = {}
): Effect.Effect<typeof Settings.Service, SettingsError, FileSystem.FileSystem> =>
  Effect.gen(function* () {
    const fileSystem = yield* FileSystem.FileSystem
    const problems: Array<Problem> = []

    const readOptional = (file: string): Effect.Effect<Option.Option<string>, SettingsError> =>
      fileSystem.readFileString(file).pipe(
        Effect.asSome,
        Effect.catchAll((error) =>
          error._tag === "SystemError" && error.reason === "NotFound"
            ? Effect.succeedNone
            : Effect.fail(unreadable(file, "a file that can be read as text"))
        )
      )
    const readRequired = (file: string): Effect.Effect<Option.Option<string>, SettingsError> =>
      Effect.filterOrFail(readOptional(file), Option.isSome, () => unreadable(file, "a file that exists"))

    // The environment, over the .env file.
    const variables = new Map<string, Variable>()
    if (options.dotenv !== false) {
      const file = options.dotenv ?? ".env"
      const text = yield* gather(problems, options.dotenv === undefined ? readOptional(file) : readRequired(file))
      const read = Option.match(Option.flatten(text), {
        onNone: () => ({ variables: [], problems: [] }),
        onSome: (found) => parseDotEnv(found, file)
      })
      problems.push(...read.problems)
      for (const variable of read.variables) {
        variables.set(variable.name, variable)
      }
    }
    for (const [name, value] of Object.entries(options.env ?? (yield* processEnvironment))) {
      if (value !== undefined) {
        variables.set(name, { name, value, origin: { type: "environment", variable: name } })
      }
    }
    const environment = makeEnvironment(variables, fileSystem)

    // The files.
    const directory = (options.directory ?? "resources").replace(/[\\/]+$/, "")
    const within = (file: string): string =>
      directory === "" || directory === "." || /^(?:[\\/]|[A-Za-z]:)/.test(file) ? file : `${directory}/${file}`
    if (
      options.directory !== undefined &&
      !(yield* Effect.orElseSucceed(fileSystem.exists(directory || "."), () => false))
    ) {
      problems.push(...unreadable(directory, "a folder that exists").problems)
    }
    const profiles =
      options.profile === undefined
        ? (variables.get("APP_PROFILE")?.value ?? "").split(",")
        : typeof options.profile === "string"
          ? options.profile.split(",")
          : options.profile
    const chosen = profiles.map((profile) => profile.trim()).filter((profile) => profile !== "")
    for (const profile of chosen) {
      if (!profileName.test(profile)) {
        problems.push({
          reason: "invalid",
          path: "profile",
          expected: "letters, digits and . _ - in the name of a profile"
        })
      }
    }

    const load = (file: string, required: boolean): Effect.Effect<Option.Option<YamlConfig.Node>> =>
      Effect.map(
        gather(
          problems,
          Effect.flatMap(
            required ? readRequired(file) : readOptional(file),
            Option.match({
              onNone: () => Effect.succeedNone,
              onSome: (text) =>
                Effect.asSome(
                  YamlConfig.parse(text, {
                    file,
                    variables: (name) =>
                      Effect.map(
                        environment.named(name),
                        Option.map((variable) => variable.value)
                      )
                  })
                )
            })
          )
        ),
        Option.flatten
      )

    const names: ReadonlyArray<{
      readonly stem: string
      readonly endings: ReadonlyArray<string>
      readonly required: boolean
    }> =
      options.files === undefined
        ? defaultFiles.map((stem) => ({ stem, endings: [".yaml", ".yml"], required: false }))
        : options.files.map((file) => {
            const ending = /\.[A-Za-z0-9]+$/.exec(file)?.[0] ?? ""
            return { stem: file.slice(0, file.length - ending.length), endings: [ending], required: true }
          })

    let base: YamlConfig.Node = fromData(options.defaults ?? {}, { type: "default" })
    for (const profile of ["", ...chosen.filter((name) => profileName.test(name)).map((name) => `-${name}`)]) {
      for (const { endings, required, stem } of names) {
        for (const ending of endings) {
          const tree = yield* load(within(`${stem}${profile}${ending}`), required && profile === "")
          base = Option.match(tree, { onNone: () => base, onSome: (found) => merge(base, found) })
        }
      }
    }
    if (problems.length > 0) {
      return yield* new SettingsError({ problems })
    }

    const overrides = fromData(options.overrides ?? {}, { type: "override" })
    const nothing = makeEnvironment(new Map(), fileSystem)
    return fromSources(makeSources(base, environment, overrides), makeSources(base, nothing, overrides))
  })

const fromSources = (sources: Sources, withoutEnvironment: Sources): typeof Settings.Service => {
  const asked = new Map<string, ReadonlyArray<string>>()
  const secrets = new Set<string>()
  const journal = {
    asked: (path: ReadonlyArray<string>) => {
      asked.set(pathText(path), path)
    },
    secret: (path: ReadonlyArray<string>) => {
      secrets.add(pathText(path))
    }
  }
  const reader = makeReader(sources, journal)

  const providerOf = (reader: ReturnType<typeof makeReader>): ConfigProvider.ConfigProvider =>
    ConfigProvider.make({
      load: <A>(config: Config.Config<A>) =>
        // The reader follows the description, which says that it makes an A.
        Effect.mapBoth(reader.read(config), {
          onFailure: (failure) => failure.error,
          onSuccess: (value) => value as A
        }),
      flattened: reader.flat
    })
  const provider = providerOf(reader)
  const files = providerOf(makeReader(withoutEnvironment, journal))

  const load = <A>(config: Config.Config<A>): Effect.Effect<A, SettingsError> =>
    Effect.mapBoth(reader.read(config), {
      onFailure: (failure) => new SettingsError({ problems: failure.problems }),
      onSuccess: (value) => value as A
    })

  const section = <A, I>(path: string, schema: Schema.Schema<A, I>): Effect.Effect<A, SettingsError> =>
    Effect.mapError(
      readSection(sources, journal, pathFrom(path), schema),
      (problems) => new SettingsError({ problems })
    )

  const origin = (path: string): Effect.Effect<Option.Option<Origin>> =>
    Effect.match(sources.at(pathFrom(path)), {
      onFailure: (problem) => Option.fromNullable(problem.origin),
      onSuccess: (found) => (found._tag === "Absent" ? Option.none() : Option.fromNullable(originOf(found)))
    })

  const hidden = (path: ReadonlyArray<string>): boolean =>
    path.some(Redaction.isSecretName) ||
    secrets.has(pathText(path)) ||
    secrets.has(pathText(path.filter((segment) => !segment.startsWith("["))))

  const lines = (path: ReadonlyArray<string>, seen: Set<string>): Effect.Effect<Array<string>> =>
    Effect.gen(function* () {
      const text = pathText(path)
      if (seen.has(text)) {
        return []
      }
      const result = yield* Effect.either(sources.at(path))
      if (Either.isLeft(result)) {
        seen.add(text)
        const place = result.left.origin === undefined ? "" : `  (${formatOrigin(result.left.origin)})`
        return [`${text} = (cannot be read)${place}`]
      }
      const found = result.right
      const from = originOf(found)
      const place = from === undefined ? "" : `  (${formatOrigin(from)}`
      switch (found._tag) {
        case "Table": {
          const inner = yield* Effect.forEach(sources.names(path), (name) => lines([...path, name], seen))
          return inner.flat()
        }
        case "List":
        case "Numbered": {
          seen.add(text)
          const count = found._tag === "List" ? found.items.length : found.count
          if (count === 0) {
            return [`${text} = []${place === "" ? "" : `${place})`}`]
          }
          const inner = yield* Effect.forEach(Array.from({ length: count }), (_, index) =>
            lines([...path, `[${index}]`], seen)
          )
          return inner.flat()
        }
        case "Absent":
          seen.add(text)
          return [`${text} = (not set: ${found.why})${place === "" ? "" : `${place})`}`]
        case "Nothing":
          return []
        case "Scalar": {
          seen.add(text)
          const shown = hidden(path)
            ? Redaction.placeholder
            : typeof found.value === "string"
              ? JSON.stringify(Redaction.text(found.value))
              : found.text
          const beneath = find(sources.base, path)
          const instead =
            beneath !== undefined &&
            beneath._tag !== "Absent" &&
            from !== undefined &&
            (from.type === "environment" || from.type === "override")
              ? `, instead of ${formatOrigin(beneath.origin)}`
              : ""
          return [`${text} = ${shown}${place}${instead})`]
        }
      }
    })

  const explain = Effect.gen(function* () {
    const seen = new Set<string>()
    const declared = yield* lines([], seen)
    const others = yield* Effect.forEach(Array.from(asked.values()), (path) => lines(path, seen))
    return [...declared, ...others.flat()].join("\n")
  })

  return Settings.of({ provider, files, load, section, origin, explain })
}

/**
 * The settings, and their provider as the one `ConfigProvider` of everything that this layer is provided to.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options?: Options): Layer.Layer<Settings, SettingsError, FileSystem.FileSystem> =>
  Layer.flatMap(Layer.effect(Settings, make(options)), (context) =>
    Layer.merge(Layer.succeedContext(context), Layer.setConfigProvider(Context.get(context, Settings).provider))
  )

/**
 * Reads a `Config` from the settings; the error lists every problem in it, with places.
 *
 * @since 0.1.0
 * @category accessors
 */
export const load = <A>(config: Config.Config<A>): Effect.Effect<A, SettingsError, Settings> =>
  Effect.flatMap(Settings, (settings) => settings.load(config))

/**
 * Reads the section at a path by a schema; the error lists every problem in it, with places.
 *
 * Names are found in any spelling (`apiKey`, `api-key`, `API_KEY`) and in the environment (`LLM_API_KEY`); texts become
 * numbers, booleans and lists (`a,b`) where the schema wants those; `Schema.Redacted` marks a secret.
 *
 * @since 0.1.0
 * @category accessors
 */
export const section = <A, I>(path: string, schema: Schema.Schema<A, I>): Effect.Effect<A, SettingsError, Settings> =>
  Effect.flatMap(Settings, (settings) => settings.section(path, schema))

/**
 * `section` by another name.
 *
 * @since 0.1.0
 * @category accessors
 */
export const decode: typeof section = section

/**
 * Where each value comes from, one line for each, secrets redacted.
 *
 * @since 0.1.0
 * @category accessors
 */
export const explain: Effect.Effect<string, never, Settings> = Effect.flatMap(Settings, (settings) => settings.explain)

/**
 * Reads several sections; if any fails, the error lists the problems of all of them.
 *
 * ```ts
 * const settings = Settings.all({
 *   redis: Settings.section("redis", RedisSection),
 *   llm: Settings.section("llm", LlmSection)
 * })
 * ```
 *
 * @since 0.1.0
 * @category combinators
 */
export const all = <Parts extends Readonly<Record<string, Effect.Effect<unknown, SettingsError, unknown>>>>(
  parts: Parts
): Effect.Effect<
  { readonly [K in keyof Parts]: Effect.Effect.Success<Parts[K]> },
  SettingsError,
  Effect.Effect.Context<Parts[keyof Parts]>
> => {
  type Context = Effect.Effect.Context<Parts[keyof Parts]>
  const named = Object.entries(parts) as Array<[string, Effect.Effect<unknown, SettingsError, Context>]>
  return Effect.flatMap(
    Effect.forEach(named, ([name, part]) => Effect.map(Effect.either(part), (result) => ({ name, result }))),
    (results) => {
      const problems = results.flatMap(({ result }) => (Either.isLeft(result) ? result.left.problems : []))
      return problems.length > 0
        ? Effect.fail(new SettingsError({ problems }))
        : Effect.succeed(
            Object.fromEntries(
              results.flatMap(({ name, result }) => (Either.isRight(result) ? [[name, result.right]] : []))
            ) as { readonly [K in keyof Parts]: Effect.Effect.Success<Parts[K]> }
          )
    }
  )
}

const unitNames: Record<string, string> = {
  ns: "nanos",
  us: "micros",
  ms: "millis",
  s: "seconds",
  sec: "seconds",
  m: "minutes",
  min: "minutes",
  h: "hours",
  d: "days",
  w: "weeks"
}

const durationFrom = (text: string): Option.Option<EffectDuration.Duration> => {
  const [, amount, unit] = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim()) ?? []
  if (amount === undefined || unit === undefined) {
    return Option.none()
  }
  return EffectDuration.decodeUnknown(`${amount} ${unit === "" ? "millis" : (unitNames[unit] ?? unit)}`)
}

/**
 * A length of time as people write it: `30 seconds`, `1.5 minutes`, `500ms`, `30s`, or a number of milliseconds.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Duration: Schema.Schema<EffectDuration.Duration, string> = Schema.transformOrFail(
  Schema.String,
  Schema.DurationFromSelf,
  {
    strict: true,
    decode: (text, _options, ast) =>
      Either.fromOption(durationFrom(text), () => new ParseResult.Type(ast, text, "not a length of time")),
    encode: (duration) => ParseResult.succeed(`${EffectDuration.toMillis(duration)} millis`)
  }
).annotations({
  identifier: "Duration",
  description: "a length of time, for example 30 seconds, 500ms or a number of milliseconds"
})

/**
 * An error of the settings as Effect's `ConfigError`, for functions that promise that.
 *
 * @since 0.1.0
 * @category conversions
 */
export const toConfigError = (error: SettingsError): ConfigError.ConfigError =>
  ConfigError.InvalidData([], error.message)
