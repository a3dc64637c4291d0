/**
 * The settings of the assistant: five files, the environment above them, the command line above that, and everything that
 * is wrong in one message.
 *
 * @since 0.1.0
 */
import type { FileSystem } from "@effect/platform"
import { Settings } from "@underlay/core"
import { RedisSettings } from "@underlay/redis"
import { Config, Duration, Effect, Either, type Layer, Option, Redacted } from "effect"

/**
 * A provider of language models that can be named, or the local answerer.
 *
 * @since 0.1.0
 * @category models
 */
export type Provider = "openai" | "groq" | "ollama" | "local"

/**
 * Where a provider with a key is and which model is asked.
 *
 * @since 0.1.0
 * @category models
 */
export interface KeyedProvider {
  readonly apiKey: Option.Option<Redacted.Redacted>
  readonly baseUrl: string
  readonly model: string
}

/**
 * Everything that can be set.
 *
 * @since 0.1.0
 * @category models
 */
export interface AppSettings {
  readonly server: { readonly host: string; readonly port: number }
  readonly log: { readonly level: "Debug" | "Info" | "Warning" | "Error"; readonly format: "text" | "json" }
  readonly sessions: { readonly ttl: Duration.Duration }
  /** The Redis that sessions are kept in, if one is named. */
  readonly redis: Option.Option<RedisSettings.RedisSettings>
  /** The PostgreSQL that the index is kept in, if one is named. */
  readonly databaseUrl: Option.Option<Redacted.Redacted>
  readonly vector: { readonly dimensions: number }
  readonly llm: {
    readonly provider: Option.Option<Provider>
    readonly timeout: Duration.Duration
    readonly maxTokens: number
    /** Not sent unless set: models that reason refuse it. */
    readonly temperature: Option.Option<number>
  }
  readonly openai: KeyedProvider
  readonly groq: KeyedProvider
  readonly ollama: { readonly host: string; readonly model: Option.Option<string> }
}

const filled = <A>(config: Config.Config<A>, isEmpty: (value: A) => boolean): Config.Config<Option.Option<A>> =>
  Config.map(
    Config.option(config),
    Option.filter((value) => !isEmpty(value))
  )

const isBlank = (value: Redacted.Redacted): boolean => Redacted.value(value).trim() === ""

const text = (name: string): Config.Config<Option.Option<string>> =>
  filled(Config.string(name), (value) => value.trim() === "")

const secret = (name: string): Config.Config<Option.Option<Redacted.Redacted>> => filled(Config.redacted(name), isBlank)

const httpUrl = (name: string): Config.Config<string> =>
  Config.nonEmptyString(name).pipe(
    Config.validate({
      message: "expected a URL that begins with http:// or https://",
      validation: (value) => URL.canParse(value) && /^https?:$/.test(new URL(value).protocol)
    })
  )

const between = (name: string, from: number, to: number): Config.Config<number> =>
  Config.number(name).pipe(
    Config.validate({ message: `expected a number from ${from} to ${to}`, validation: (n) => n >= from && n <= to })
  )

const whole = (name: string, from: number, to: number): Config.Config<number> =>
  Config.integer(name).pipe(
    Config.validate({
      message: `expected a whole number from ${from} to ${to}`,
      validation: (n) => n >= from && n <= to
    })
  )

/** A time that ends, and not at once. */
const time = (name: string): Config.Config<Duration.Duration> =>
  Config.duration(name).pipe(
    Config.validate({
      message: "expected a time longer than zero, for example 30 minutes",
      validation: (duration) => Duration.toMillis(duration) > 0 && Duration.isFinite(duration)
    })
  )

/** `host`, `host:port` and URLs, as Ollama itself takes them; an address to listen on is one to call on this machine. */
const ollamaHost: Config.Config<string> = Config.nonEmptyString("host").pipe(
  Config.validate({
    message: "expected the address of an Ollama, for example 127.0.0.1:11434",
    validation: (value) => URL.canParse(withScheme(value))
  }),
  Config.map((value) => {
    const parsed = new URL(withScheme(value))
    if (parsed.hostname === "0.0.0.0") parsed.hostname = "127.0.0.1"
    if (parsed.port === "" && parsed.protocol === "http:" && !/:80\/?$/.test(value)) parsed.port = "11434"
    return `${parsed.protocol}//${parsed.host}`
  })
)

const withScheme = (value: string): string => (/^https?:\/\//.test(value) ? value : `http://${value}`)

/** The host may stand among the parameters, as it does for a socket: `postgres:///name?host=/run/postgresql`. */
const isPostgresUrl = (text: string): boolean => {
  if (!URL.canParse(text)) return false
  const url = new URL(text)
  return /^postgres(ql)?:$/.test(url.protocol) && (url.hostname !== "" || (url.searchParams.get("host") ?? "") !== "")
}

const databaseUrl: Config.Config<Option.Option<Redacted.Redacted>> = filled(
  Config.string("url").pipe(
    Config.validate({
      message: "expected a PostgreSQL URL with a host: postgresql://user:password@host:5432/database",
      validation: (url) => url.trim() === "" || isPostgresUrl(url)
    }),
    Config.map(Redacted.make)
  ),
  isBlank
)

const providers: ReadonlyArray<Provider> = ["openai", "groq", "ollama", "local"]

const providerOf = (name: string): Provider | undefined => providers.find((one) => one === name.trim().toLowerCase())

/** An empty name is no name, as everywhere. */
const provider: Config.Config<Option.Option<Provider>> = Config.map(
  Config.option(
    Config.string("provider").pipe(
      Config.validate({
        message: `expected one of ${providers.join(", ")}`,
        validation: (name) => name.trim() === "" || providerOf(name) !== undefined
      })
    )
  ),
  Option.flatMapNullable(providerOf)
)

const keyed = (provider: string): Config.Config<KeyedProvider> =>
  Config.nested(
    Config.all({ apiKey: secret("apiKey"), baseUrl: httpUrl("baseUrl"), model: Config.nonEmptyString("model") }),
    provider
  )

const redisAt = (url: string, commandTimeout?: Duration.Duration) =>
  RedisSettings.fromExplicit({ url: Redacted.make(url), commandTimeout })

const redis: Config.Config<Option.Option<RedisSettings.RedisSettings>> = Config.map(
  Config.all({
    url: Config.option(
      Config.validate(Config.string("url"), {
        message: "expected redis://[user:password@]host[:port][/db], or rediss:// for TLS",
        validation: (url) => url.trim() === "" || Either.isRight(redisAt(url))
      })
    ),
    commandTimeout: time("commandTimeout")
  }),
  ({ commandTimeout, url }) =>
    url.pipe(
      Option.filter((one) => one.trim() !== ""),
      Option.flatMap((one) => Either.getRight(redisAt(one, commandTimeout)))
    )
)

const settings: Config.Config<AppSettings> = Config.all({
  server: Config.nested(Config.all({ host: Config.nonEmptyString("host"), port: whole("port", 0, 65_535) }), "server"),
  log: Config.nested(
    Config.all({
      level: Config.literal("Debug", "Info", "Warning", "Error")("level"),
      format: Config.literal("text", "json")("format")
    }),
    "log"
  ),
  sessions: Config.nested(Config.all({ ttl: time("ttl") }), "sessions"),
  redis: Config.nested(redis, "redis"),
  databaseUrl: Config.nested(databaseUrl, "database"),
  vector: Config.nested(Config.all({ dimensions: whole("dimensions", 64, 2000) }), "vector"),
  llm: Config.nested(
    Config.all({
      provider,
      timeout: time("timeout"),
      maxTokens: whole("maxTokens", 16, 100_000),
      temperature: Config.option(between("temperature", 0, 2))
    }),
    "llm"
  ),
  openai: keyed("openai"),
  groq: keyed("groq"),
  ollama: Config.nested(Config.all({ host: ollamaHost, model: text("model") }), "ollama")
})

/** The provider that is named needs its key: a problem like any other, at the place where the provider is named. */
const keyProblems = (service: typeof Settings.Settings.Service): Effect.Effect<ReadonlyArray<Settings.Problem>> =>
  Effect.gen(function* () {
    const provider = yield* Effect.option(service.load(Config.string("llm.provider")))
    const named = providerOf(Option.getOrElse(provider, () => ""))
    if (named !== "openai" && named !== "groq") return []
    const key = yield* Effect.option(service.load(Config.nested(secret("apiKey"), named)))
    if (Option.isSome(Option.flatten(key))) return []
    const origin = yield* service.origin("llm.provider")
    return [
      {
        reason: "missing" as const,
        path: `${named}.apiKey`,
        ...(Option.isSome(origin) ? { origin: origin.value } : {}),
        detail: `the provider ${named} is chosen here and needs a key: set ${named.toUpperCase()}_API_KEY`
      }
    ]
  })

/**
 * Reads the settings. Fails with every problem at once.
 *
 * @since 0.1.0
 * @category constructors
 */
export const load: Effect.Effect<AppSettings, Settings.SettingsError, Settings.Settings> = Effect.gen(function* () {
  const service = yield* Settings.Settings
  const loaded = yield* Effect.either(service.load(settings))
  const problems = [...(Either.isLeft(loaded) ? loaded.left.problems : []), ...(yield* keyProblems(service))]
  if (Either.isRight(loaded) && problems.length === 0) return loaded.right
  return yield* new Settings.SettingsError({ problems })
})

/**
 * The settings of the folder `resources` beside the sources, under the environment, under `overrides`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = (options: {
  readonly directory: string
  readonly overrides?: Readonly<Record<string, unknown>> | undefined
  readonly env?: Readonly<Record<string, string | undefined>> | undefined
}): Layer.Layer<Settings.Settings, Settings.SettingsError, FileSystem.FileSystem> =>
  Settings.layer({
    directory: options.directory,
    files: [
      "application-db.yaml",
      "application-cache.yaml",
      "application-llm.yaml",
      "application-vector.yaml",
      "application-external.yaml"
    ],
    overrides: options.overrides,
    env: options.env
  })
