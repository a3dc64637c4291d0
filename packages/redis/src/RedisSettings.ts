/**
 * Where the Redis server is and how to talk to it, found in five places of falling precedence: what the program says,
 * `REDIS_URL`, the settings, `REDIS_HOST` and its siblings, the defaults.
 *
 * @since 0.1.0
 */
import * as Settings from "@underlay/core/config/Settings"
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"

/**
 * What the program itself says: it wins over every other place, field by field. A `url` or a `host` given here makes
 * `REDIS_URL` irrelevant: it is about another server.
 *
 * @since 0.1.0
 * @category models
 */
export interface Explicit {
  /** `redis://[user:password@]host[:port][/db]`, `rediss://` for TLS. Secret, for it can hold a password. */
  readonly url?: string | Redacted.Redacted | undefined
  readonly host?: string | undefined
  readonly port?: number | undefined
  readonly username?: string | undefined
  /** An empty password is no password. */
  readonly password?: string | Redacted.Redacted | undefined
  /** The number of the database, from 0. */
  readonly db?: number | undefined
  readonly tls?: boolean | undefined
  /** How long a connection may take to be ready. Default: 5 seconds. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long a command may take to be answered. There is always such a limit. Default: 500 milliseconds. */
  readonly commandTimeout?: Duration.DurationInput | undefined
}

/**
 * Resolved settings. Times are finite and longer than zero.
 *
 * @since 0.1.0
 * @category models
 */
export interface RedisSettings {
  readonly host: string
  readonly port: number
  readonly username: Option.Option<string>
  readonly password: Option.Option<Redacted.Redacted>
  readonly db: number
  readonly tls: boolean
  readonly connectTimeout: Duration.Duration
  readonly commandTimeout: Duration.Duration
}

/**
 * The settings as the five places give them. Read through Effect's `Config`, so from whatever provider the program has:
 *
 * 1. `explicit`;
 * 2. `REDIS_URL`, which decides host, port, TLS, user, password and database together;
 * 3. the settings below `path` (default `redis`): `url`, `host`, `port`, `username`, `password`, `db`, `tls`,
 *    `connectTimeout`, `commandTimeout`;
 * 4. `REDIS_HOST`, `REDIS_PORT` (a number, or `tcp://host:port` as Kubernetes injects it), `REDIS_USERNAME`,
 *    `REDIS_PASSWORD`, `REDIS_DB`, `REDIS_TLS`;
 * 5. `localhost:6379`, database 0, no TLS, 5 s to connect, 500 ms for a command.
 *
 * A place that is set but wrong is an error; it never falls through to a lower one. An empty value counts as not set.
 * All errors come at once and hold no value.
 *
 * @since 0.1.0
 * @category constructors
 */
export const config = (explicit: Explicit = {}, path = "redis"): Config.Config<RedisSettings> =>
  Config.mapOrFail(Config.all({ url: text("REDIS_URL"), settings: nested(path), variables }), (found) =>
    resolve(explicit, found.url, found.settings, path, found.variables)
  )

/**
 * One place of settings as it is written: `url`, `host`, `port`, … not checked yet. Redacted as a whole, for it can hold
 * a password. For what reads a place itself, as the registry of connections does.
 *
 * @since 0.1.0
 * @category constructors
 */
export const place: Config.Config<Redacted.Redacted<Fields>> = Config.map(fields(), (found) => Redacted.make(found))

/**
 * The settings as `config` finds them, with `settings`, read at `path`, as the third place.
 *
 * @since 0.1.0
 * @category constructors
 */
export const loadAt = (
  settings: Redacted.Redacted<Fields>,
  path: string,
  explicit: Explicit = {}
): Effect.Effect<RedisSettings, ConfigError.ConfigError> =>
  Effect.flatMap(Config.all({ url: text("REDIS_URL"), variables }), (found) =>
    resolve(explicit, found.url, Redacted.value(settings), path, found.variables)
  )

/**
 * The settings as `config` finds them. Where the program has core's `Settings`, the third place is its files alone:
 * there one provider holds files and environment, and gives a variable such as `REDIS_HOST` before the file.
 *
 * @since 0.1.0
 * @category constructors
 */
export const load = (explicit: Explicit = {}, path = "redis"): Effect.Effect<RedisSettings, ConfigError.ConfigError> =>
  Effect.flatMap(Effect.serviceOption(Settings.Settings), (settings) => {
    const read = Config.map(nested(path), (found) => Redacted.make(found))
    const found = Option.isNone(settings) ? read : Effect.withConfigProvider(read, settings.value.files)
    return Effect.flatMap(found, (fields) => loadAt(fields, path, explicit))
  })

/**
 * The settings of one place alone and the defaults, without the environment: for a further server beside the
 * application's usual one.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromPlace = (
  settings: Redacted.Redacted<Fields>,
  path: string
): Either.Either<RedisSettings, ConfigError.ConfigError> => resolve({}, undefined, Redacted.value(settings), path, {})

/**
 * Settings of what the program says alone, with the defaults for the rest.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromExplicit = (explicit: Explicit): Either.Either<RedisSettings, ConfigError.ConfigError> =>
  resolve(explicit, undefined, {}, "", {})

/**
 * The texts of one place by field.
 *
 * @since 0.1.0
 * @category models
 */
export interface Fields {
  readonly url?: string | undefined
  readonly host?: string | undefined
  readonly port?: string | undefined
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly db?: string | undefined
  readonly tls?: string | undefined
  readonly connectTimeout?: string | undefined
  readonly commandTimeout?: string | undefined
}

/** A text that may be absent. Empty is absent. */
function text(name: string): Config.Config<string | undefined> {
  return Config.map(Config.option(Config.string(name)), (value) => {
    const found = Option.getOrUndefined(value)
    return found === undefined || found.trim() === "" ? undefined : found
  })
}

function fields(): Config.Config<Fields> {
  return Config.all({
    url: text("url"),
    host: text("host"),
    port: text("port"),
    username: text("username"),
    password: text("password"),
    db: text("db"),
    tls: text("tls"),
    connectTimeout: text("connectTimeout"),
    commandTimeout: text("commandTimeout")
  })
}

const nested = (path: string): Config.Config<Fields> =>
  path
    .split(".")
    .reverse()
    .reduce<Config.Config<Fields>>((inner, name) => Config.nested(inner, name), fields())

const variables: Config.Config<Fields> = Config.all({
  host: text("REDIS_HOST"),
  port: text("REDIS_PORT"),
  username: text("REDIS_USERNAME"),
  password: text("REDIS_PASSWORD"),
  db: text("REDIS_DB"),
  tls: text("REDIS_TLS")
})

/** The address of one place. Absent fields are left to the lower places, except below a URL. */
interface Address {
  readonly host?: string | undefined
  readonly port?: number | undefined
  readonly username?: string | undefined
  readonly password?: string | undefined
  readonly db?: number | undefined
  readonly tls?: boolean | undefined
}

const resolve = (
  explicit: Explicit,
  url: string | undefined,
  settings: Fields,
  path: string,
  environment: Fields
): Either.Either<RedisSettings, ConfigError.ConfigError> => {
  const problems: Array<ConfigError.ConfigError> = []
  /** Reads a field of a place and notes what is wrong with it. */
  const checked = <A>(where: ReadonlyArray<string>, result: Either.Either<A, string>): A | undefined => {
    if (Either.isRight(result)) return result.right
    problems.push(ConfigError.InvalidData([...where], result.left))
    return undefined
  }
  const at = (name: string) => (path === "" ? [name] : [...path.split("."), name])

  const said = secret(explicit.url)
  const own: Address = {
    ...(said === undefined ? {} : checked(["url"], parseUrl(said))),
    ...present({
      host: explicit.host === undefined ? undefined : checked(["host"], parseHost(explicit.host)),
      port: explicit.port === undefined ? undefined : checked(["port"], checkPort(explicit.port)),
      username: explicit.username,
      password: secret(explicit.password),
      db: explicit.db === undefined ? undefined : checked(["db"], checkDb(explicit.db)),
      tls: explicit.tls
    })
  }
  // each place below is only read where nothing above has decided already
  const ownDecides = said !== undefined
  const byUrl = ownDecides || explicit.host !== undefined ? undefined : url
  const fromUrl = byUrl === undefined ? {} : checked(["REDIS_URL"], parseUrl(byUrl))
  const decided: Address = { ...fromUrl, ...own }
  const urlDecides = ownDecides || byUrl !== undefined

  // a URL in the settings decides as REDIS_URL does, unless the program names another host
  const settingsUrl = urlDecides || explicit.host !== undefined ? undefined : settings.url
  const fromSettingsUrl = settingsUrl === undefined ? {} : checked(at("url"), parseUrl(settingsUrl))
  const settled = urlDecides || settingsUrl !== undefined

  const lower = <A>(
    known: A | undefined,
    name: keyof Fields,
    variable: string,
    parse: (text: string) => Either.Either<A, string>
  ): A | undefined => {
    if (known !== undefined || settled) return known
    const inSettings = settings[name]
    if (inSettings !== undefined) return checked(at(name), parse(inSettings))
    const inEnvironment = environment[name]
    return inEnvironment === undefined ? undefined : checked([variable], parse(inEnvironment))
  }
  const known: Address = { ...fromSettingsUrl, ...decided }
  const port = lower(known.port, "port", "REDIS_PORT", parsePort)
  const host =
    lower(known.host, "host", "REDIS_HOST", parseHost) ??
    // Kubernetes gives the address of a service called redis in this one variable
    (settled || settings.port !== undefined || known.port !== undefined ? undefined : serviceHost(environment.port))
  const username = lower(known.username, "username", "REDIS_USERNAME", anyText)
  const password = lower(known.password, "password", "REDIS_PASSWORD", anyText)
  const db = lower(known.db, "db", "REDIS_DB", parseDb)
  const tls = lower(known.tls, "tls", "REDIS_TLS", parseBoolean)

  const time = (name: "connectTimeout" | "commandTimeout", otherwise: Duration.DurationInput): Duration.Duration => {
    const given = explicit[name]
    if (given !== undefined) return checked([name], checkTime(Duration.decodeUnknown(given))) ?? Duration.zero
    const text = settings[name]
    if (text === undefined) return Duration.decode(otherwise)
    return checked(at(name), checkTime(parseDuration(text))) ?? Duration.zero
  }
  const connectTimeout = time("connectTimeout", "5 seconds")
  const commandTimeout = time("commandTimeout", "500 millis")

  const [first, ...others] = problems
  if (first !== undefined) return Either.left(others.reduce((all, one) => ConfigError.And(all, one), first))
  return Either.right({
    host: host ?? "localhost",
    port: port ?? 6379,
    username: nonEmpty(username),
    password: Option.map(nonEmpty(password), (value) => Redacted.make(value)),
    db: db ?? 0,
    tls: tls ?? false,
    connectTimeout,
    commandTimeout
  })
}

const secret = (value: string | Redacted.Redacted | undefined): string | undefined =>
  Redacted.isRedacted(value) ? Redacted.value(value) : value

const nonEmpty = (value: string | undefined): Option.Option<string> =>
  value === undefined || value === "" ? Option.none() : Option.some(value)

const present = (address: Address): Address =>
  Object.fromEntries(Object.entries(address).filter(([, value]) => value !== undefined))

const anyText = (value: string): Either.Either<string, string> => Either.right(value)

const parseHost = (value: string): Either.Either<string, string> => {
  const host = value.trim()
  return /^[^\s/@]+$/.test(host)
    ? Either.right(host)
    : Either.left("expected the name or the address of a host, without scheme, user or path")
}

const checkPort = (port: number): Either.Either<number, string> =>
  Number.isInteger(port) && port >= 1 && port <= 65_535
    ? Either.right(port)
    : Either.left("expected a port from 1 to 65535")

const servicePattern = /^tcp:\/\/(\[[0-9A-Fa-f:.]+\]|[^\s:/]+):(\d+)\/?$/

const parsePort = (value: string): Either.Either<number, string> => {
  const trimmed = value.trim()
  const service = servicePattern.exec(trimmed)
  if (service !== null) return checkPort(Number(service[2]))
  return /^\d+$/.test(trimmed)
    ? checkPort(Number(trimmed))
    : Either.left("expected a port from 1 to 65535, or tcp://host:port")
}

const serviceHost = (port: string | undefined): string | undefined =>
  port === undefined ? undefined : servicePattern.exec(port.trim())?.[1]?.replace(/^\[|\]$/g, "")

const checkDb = (db: number): Either.Either<number, string> =>
  Number.isInteger(db) && db >= 0 ? Either.right(db) : Either.left("expected the number of a database, from 0")

const parseDb = (value: string): Either.Either<number, string> =>
  /^\d+$/.test(value.trim()) ? checkDb(Number(value.trim())) : Either.left("expected the number of a database, from 0")

const parseBoolean = (value: string): Either.Either<boolean, string> => {
  switch (value.trim().toLowerCase()) {
    case "true":
    case "1":
    case "yes":
    case "on":
      return Either.right(true)
    case "false":
    case "0":
    case "no":
    case "off":
      return Either.right(false)
    default:
      return Either.left("expected true or false")
  }
}

/** A duration as text: `500 millis`, `5 seconds`; a bare number is milliseconds. */
const parseDuration = (value: string): Option.Option<Duration.Duration> => {
  const trimmed = value.trim()
  return Duration.decodeUnknown(/^\d+(\.\d+)?$/.test(trimmed) ? Number(trimmed) : trimmed)
}

/** A timer of the platform that is set for longer fires at once. */
const longestTime = 2 ** 31 - 1

const checkTime = (value: Option.Option<Duration.Duration>): Either.Either<Duration.Duration, string> => {
  const millis = Option.isSome(value) ? Duration.toMillis(value.value) : Number.NaN
  return Option.isSome(value) && millis >= 1 && millis <= longestTime
    ? Either.right(value.value)
    : Either.left('expected a time from one millisecond to 24 days, such as "500 millis"')
}

const urlProblem = "expected redis://[user:password@]host[:port][/db], or rediss:// for TLS"

const parseUrl = (value: string): Either.Either<Address, string> => {
  const trimmed = value.trim()
  if (!URL.canParse(trimmed)) return Either.left(urlProblem)
  const url = new URL(trimmed)
  if (url.protocol !== "redis:" && url.protocol !== "rediss:") return Either.left(urlProblem)
  if (url.hostname === "") return Either.left(urlProblem)
  const path = url.pathname.replace(/^\//, "")
  const inQuery = url.searchParams.get("db") ?? ""
  const db = path !== "" ? path : inQuery
  if (db !== "" && !/^\d+$/.test(db)) return Either.left(`${urlProblem}: the database is a number`)
  const username = unescaped(url.username)
  const password = unescaped(url.password)
  if (username === undefined || password === undefined) {
    return Either.left(`${urlProblem}: a percent sign in the user or the password is written %25`)
  }
  const port = url.port === "" ? Either.right(6379) : checkPort(Number(url.port))
  if (Either.isLeft(port)) return Either.left(`${urlProblem}: ${port.left}`)
  return Either.right({
    host: url.hostname.replace(/^\[|\]$/g, ""),
    port: port.right,
    // empty stands for none and keeps the lower places out
    username,
    password,
    db: db === "" ? 0 : Number(db),
    tls: url.protocol === "rediss:"
  })
}

const unescaped = (value: string): string | undefined => {
  try {
    return decodeURIComponent(value)
  } catch {
    return undefined
  }
}
