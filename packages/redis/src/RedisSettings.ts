/**
 * Where Redis is (one server, Sentinel or Cluster) and how to talk to it, found in five places of falling precedence:
 * what the program says, `REDIS_URL`, the settings, `REDIS_HOST` and its siblings, the defaults.
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
 * The address of one server.
 *
 * @since 0.1.0
 * @category models
 */
export interface Address {
  readonly host: string
  readonly port: number
}

/**
 * One server, the master that Sentinel names, or a Cluster.
 *
 * @since 0.1.0
 * @category models
 */
export type Topology = "standalone" | "sentinel" | "cluster"

/**
 * What the program itself says: it wins over every other place, field by field. A `url`, a `host`, `sentinels` or `nodes`
 * given here make `REDIS_URL` irrelevant: it is about another server.
 *
 * @since 0.1.0
 * @category models
 */
export interface Explicit {
  /**
   * `redis://[user:password@]host[:port][/db]`, or `redis-sentinel://[user:password@]host[:port],host[:port][/db]#master`,
   * or `redis-cluster://[user:password@]host[:port],host[:port]`; `rediss…` for TLS. Secret, for it can hold a password.
   */
  readonly url?: string | Redacted.Redacted | undefined
  readonly host?: string | undefined
  readonly port?: number | undefined
  /** The Sentinels, as addresses or `host[:port]`; their usual port is 26379. They need `master`. */
  readonly sentinels?: ReadonlyArray<Address | string> | undefined
  /** The name under which the Sentinels know the master. */
  readonly master?: string | undefined
  readonly sentinelUsername?: string | undefined
  readonly sentinelPassword?: string | Redacted.Redacted | undefined
  /** Whether the Sentinels are spoken to by TLS. Default: as `tls`. */
  readonly sentinelTls?: boolean | undefined
  /** Some nodes of a Cluster, as addresses or `host[:port]`: the others are found through them. */
  readonly nodes?: ReadonlyArray<Address | string> | undefined
  readonly username?: string | undefined
  /** An empty password is no password. */
  readonly password?: string | Redacted.Redacted | undefined
  /** The number of the database, from 0. */
  readonly db?: number | undefined
  readonly tls?: boolean | undefined
  /** The certificates of the authorities that are trusted, as text (PEM) or the path of a file. Default: those of Node. */
  readonly ca?: string | undefined
  /** The certificate of this client, as text (PEM) or the path of a file. */
  readonly cert?: string | undefined
  /** The key of `cert`, as text (PEM) or the path of a file. */
  readonly key?: string | Redacted.Redacted | undefined
  /** The name that the server's certificate must have. Default: the host. */
  readonly serverName?: string | undefined
  /** Whether a server whose certificate is not trusted is refused. Default: yes. */
  readonly rejectUnauthorized?: boolean | undefined
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
  readonly topology: Topology
  /** The server, where there is one; the first of the others else. */
  readonly host: string
  readonly port: number
  readonly sentinels: ReadonlyArray<Address>
  readonly master: Option.Option<string>
  readonly sentinelUsername: Option.Option<string>
  readonly sentinelPassword: Option.Option<Redacted.Redacted>
  readonly sentinelTls: boolean
  readonly nodes: ReadonlyArray<Address>
  readonly username: Option.Option<string>
  readonly password: Option.Option<Redacted.Redacted>
  readonly db: number
  readonly tls: boolean
  /** Text or the path of a file, as `cert` and `key`. */
  readonly ca: Option.Option<string>
  readonly cert: Option.Option<string>
  readonly key: Option.Option<Redacted.Redacted>
  readonly serverName: Option.Option<string>
  readonly rejectUnauthorized: boolean
  readonly connectTimeout: Duration.Duration
  readonly commandTimeout: Duration.Duration
}

/**
 * The settings as the five places give them. Read through Effect's `Config`, so from whatever provider the program has:
 *
 * 1. `explicit`;
 * 2. `REDIS_URL`, which decides where Redis is, TLS, user, password and database together;
 * 3. the settings below `path` (default `redis`): `url`, `host`, `port`, `username`, `password`, `db`, `tls`, `ca`,
 *    `cert`, `key`, `serverName`, `rejectUnauthorized`, `sentinels`, `master`, `sentinelUsername`, `sentinelPassword`,
 *    `sentinelTls`, `nodes`, `connectTimeout`, `commandTimeout`; lists with commas between;
 * 4. `REDIS_HOST`, `REDIS_PORT` (a number, or `tcp://host:port` as Kubernetes injects it), `REDIS_USERNAME`,
 *    `REDIS_PASSWORD`, `REDIS_DB`, `REDIS_TLS`, `REDIS_TLS_CA`, `REDIS_TLS_CERT`, `REDIS_TLS_KEY`,
 *    `REDIS_TLS_SERVER_NAME`, `REDIS_TLS_REJECT_UNAUTHORIZED`, `REDIS_SENTINELS`, `REDIS_MASTER`,
 *    `REDIS_SENTINEL_USERNAME`, `REDIS_SENTINEL_PASSWORD`, `REDIS_SENTINEL_TLS`, `REDIS_NODES`;
 * 5. `localhost:6379`, database 0, no TLS, 5 s to connect, 500 ms for a command.
 *
 * The highest place that names a host, Sentinels or nodes decides which of the three it is; one place may name one of
 * them. What a URL cannot say (certificates, the Sentinels' own user and password) is looked for below it too.
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
  readonly ca?: string | undefined
  readonly cert?: string | undefined
  readonly key?: string | undefined
  readonly serverName?: string | undefined
  readonly rejectUnauthorized?: string | undefined
  readonly sentinels?: string | undefined
  readonly master?: string | undefined
  readonly sentinelUsername?: string | undefined
  readonly sentinelPassword?: string | undefined
  readonly sentinelTls?: string | undefined
  readonly nodes?: string | undefined
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

/** Several texts that may be absent, as a list or in one text with commas. */
function list(name: string): Config.Config<string | undefined> {
  return Config.map(Config.option(Config.array(Config.string(), name)), (value) => {
    const found = Option.getOrElse(value, (): ReadonlyArray<string> => []).filter((one) => one.trim() !== "")
    return found.length === 0 ? undefined : found.join(",")
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
    ca: text("ca"),
    cert: text("cert"),
    key: text("key"),
    serverName: text("serverName"),
    rejectUnauthorized: text("rejectUnauthorized"),
    sentinels: list("sentinels"),
    master: text("master"),
    sentinelUsername: text("sentinelUsername"),
    sentinelPassword: text("sentinelPassword"),
    sentinelTls: text("sentinelTls"),
    nodes: list("nodes"),
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
  tls: text("REDIS_TLS"),
  ca: text("REDIS_TLS_CA"),
  cert: text("REDIS_TLS_CERT"),
  key: text("REDIS_TLS_KEY"),
  serverName: text("REDIS_TLS_SERVER_NAME"),
  rejectUnauthorized: text("REDIS_TLS_REJECT_UNAUTHORIZED"),
  sentinels: list("REDIS_SENTINELS"),
  master: text("REDIS_MASTER"),
  sentinelUsername: text("REDIS_SENTINEL_USERNAME"),
  sentinelPassword: text("REDIS_SENTINEL_PASSWORD"),
  sentinelTls: text("REDIS_SENTINEL_TLS"),
  nodes: list("REDIS_NODES")
})

/** What one place says. Absent fields are left to the lower places, except below a URL. */
interface Place {
  readonly topology?: Topology | undefined
  readonly sentinels?: ReadonlyArray<Address> | undefined
  readonly master?: string | undefined
  readonly nodes?: ReadonlyArray<Address> | undefined
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

  /** Which of the three a place names; it may name one. */
  const names = (
    place: { readonly [K in "host" | "sentinels" | "nodes"]?: unknown },
    where: (name: string) => ReadonlyArray<string>
  ): Topology | undefined => {
    const named = (["host", "sentinels", "nodes"] as const).filter((name) => place[name] !== undefined)
    const [first, second] = named
    if (second !== undefined) {
      problems.push(ConfigError.InvalidData([...where(second)], `${first} is said too: say one of the two`))
    }
    return first === undefined ? undefined : topologies[first]
  }

  const said = secret(explicit.url)
  const saidUrl = said === undefined ? {} : (checked(["url"], parseUrl(said)) ?? {})
  const own: Place = {
    ...saidUrl,
    ...present({
      topology: names(explicit, (name) => [name]),
      host: explicit.host === undefined ? undefined : checked(["host"], parseHost(explicit.host)),
      port: explicit.port === undefined ? undefined : checked(["port"], checkPort(explicit.port)),
      sentinels:
        explicit.sentinels === undefined
          ? undefined
          : checked(["sentinels"], checkAddresses(explicit.sentinels, sentinelPort)),
      master: explicit.master,
      nodes: explicit.nodes === undefined ? undefined : checked(["nodes"], checkAddresses(explicit.nodes, serverPort)),
      username: explicit.username,
      password: secret(explicit.password),
      db: explicit.db === undefined ? undefined : checked(["db"], checkDb(explicit.db)),
      tls: explicit.tls
    })
  }
  // each place below is only read where nothing above has decided already
  const ownDecides = said !== undefined
  const byUrl = ownDecides || own.topology !== undefined ? undefined : url
  const fromUrl = byUrl === undefined ? {} : checked(["REDIS_URL"], parseUrl(byUrl))
  const decided: Place = { ...fromUrl, ...own }
  const urlDecides = ownDecides || byUrl !== undefined

  // a URL in the settings decides as REDIS_URL does, unless the program names another place
  const settingsUrl = urlDecides || own.topology !== undefined ? undefined : settings.url
  const fromSettingsUrl = settingsUrl === undefined ? {} : checked(at("url"), parseUrl(settingsUrl))
  const settled = urlDecides || settingsUrl !== undefined

  const known: Place = { ...fromSettingsUrl, ...decided }
  const topology =
    known.topology ??
    (settled ? undefined : (names(settings, at) ?? names(environment, (name) => [`REDIS_${name.toUpperCase()}`]))) ??
    "standalone"

  /** A field that a URL cannot say. */
  const anywhere = <A>(
    given: A | undefined,
    name: keyof Fields,
    variable: string,
    parse: (text: string) => Either.Either<A, string>
  ): A | undefined => {
    if (given !== undefined) return given
    const inSettings = settings[name]
    if (inSettings !== undefined) return checked(at(name), parse(inSettings))
    const inEnvironment = environment[name]
    return inEnvironment === undefined ? undefined : checked([variable], parse(inEnvironment))
  }
  const lower: typeof anywhere = (given, name, variable, parse) =>
    given !== undefined || settled ? given : anywhere(given, name, variable, parse)

  const alone = topology === "standalone"
  const port = alone ? lower(known.port, "port", "REDIS_PORT", parsePort) : undefined
  const host = alone
    ? (lower(known.host, "host", "REDIS_HOST", parseHost) ??
      // Kubernetes gives the address of a service called redis in this one variable
      (settled || settings.port !== undefined || known.port !== undefined ? undefined : serviceHost(environment.port)))
    : undefined
  const sentinels =
    topology === "sentinel"
      ? (lower(known.sentinels, "sentinels", "REDIS_SENTINELS", parseAddresses(sentinelPort)) ?? [])
      : []
  const master = topology === "sentinel" ? lower(known.master, "master", "REDIS_MASTER", anyText) : undefined
  if (topology === "sentinel" && (master === undefined || master === "")) {
    problems.push(ConfigError.MissingData(["master"], "expected the name under which the Sentinels know the master"))
  }
  const nodes =
    topology === "cluster" ? (lower(known.nodes, "nodes", "REDIS_NODES", parseAddresses(serverPort)) ?? []) : []
  const username = lower(known.username, "username", "REDIS_USERNAME", anyText)
  const password = lower(known.password, "password", "REDIS_PASSWORD", anyText)
  const db = lower(known.db, "db", "REDIS_DB", parseDb)
  if (topology === "cluster" && db !== undefined && db !== 0) {
    problems.push(ConfigError.InvalidData(["db"], "a Cluster has database 0 alone"))
  }
  const tls = lower(known.tls, "tls", "REDIS_TLS", parseBoolean)
  const ca = anywhere(explicit.ca, "ca", "REDIS_TLS_CA", anyText)
  const cert = anywhere(explicit.cert, "cert", "REDIS_TLS_CERT", anyText)
  const key = anywhere(secret(explicit.key), "key", "REDIS_TLS_KEY", anyText)
  const serverName = anywhere(explicit.serverName, "serverName", "REDIS_TLS_SERVER_NAME", anyText)
  const rejectUnauthorized = anywhere(
    explicit.rejectUnauthorized,
    "rejectUnauthorized",
    "REDIS_TLS_REJECT_UNAUTHORIZED",
    parseBoolean
  )
  const sentinelUsername = anywhere(explicit.sentinelUsername, "sentinelUsername", "REDIS_SENTINEL_USERNAME", anyText)
  const sentinelPassword = anywhere(
    secret(explicit.sentinelPassword),
    "sentinelPassword",
    "REDIS_SENTINEL_PASSWORD",
    anyText
  )
  const sentinelTls = anywhere(explicit.sentinelTls, "sentinelTls", "REDIS_SENTINEL_TLS", parseBoolean)

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
  const server = [...nodes, ...sentinels][0] ?? { host: host ?? "localhost", port: port ?? serverPort }
  return Either.right({
    topology,
    host: server.host,
    port: server.port,
    sentinels,
    master: nonEmpty(master),
    sentinelUsername: nonEmpty(sentinelUsername),
    sentinelPassword: Option.map(nonEmpty(sentinelPassword), (value) => Redacted.make(value)),
    sentinelTls: sentinelTls ?? tls ?? false,
    nodes,
    username: nonEmpty(username),
    password: Option.map(nonEmpty(password), (value) => Redacted.make(value)),
    db: db ?? 0,
    tls: tls ?? false,
    ca: nonEmpty(ca),
    cert: nonEmpty(cert),
    key: Option.map(nonEmpty(key), (value) => Redacted.make(value)),
    serverName: nonEmpty(serverName),
    rejectUnauthorized: rejectUnauthorized ?? true,
    connectTimeout,
    commandTimeout
  })
}

const secret = (value: string | Redacted.Redacted | undefined): string | undefined =>
  Redacted.isRedacted(value) ? Redacted.value(value) : value

const nonEmpty = (value: string | undefined): Option.Option<string> =>
  value === undefined || value === "" ? Option.none() : Option.some(value)

const topologies = { host: "standalone", sentinels: "sentinel", nodes: "cluster" } as const

const serverPort = 6379
const sentinelPort = 26_379

const present = (place: Place): Place =>
  Object.fromEntries(Object.entries(place).filter(([, value]) => value !== undefined))

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

const addressPattern = /^(?:\[([0-9A-Fa-f:.]+)\]|([^\s/@:,#?]+))(?::(\d+))?$/

const parseAddress = (value: string, otherwise: number): Either.Either<Address, string> => {
  const found = addressPattern.exec(value.trim())
  const host = found?.[1] ?? found?.[2]
  if (host === undefined) return Either.left("expected host[:port], several with commas between")
  return Either.map(found?.[3] === undefined ? Either.right(otherwise) : checkPort(Number(found[3])), (port) => ({
    host,
    port
  }))
}

const checkAddresses = (
  values: ReadonlyArray<Address | string>,
  otherwise: number
): Either.Either<ReadonlyArray<Address>, string> => {
  if (values.length === 0) return Either.left("expected at least one address")
  return Either.all(
    values.map((value) =>
      typeof value === "string"
        ? parseAddress(value, otherwise)
        : Either.all({ host: parseHost(value.host), port: checkPort(value.port) })
    )
  )
}

const parseAddresses =
  (otherwise: number) =>
  (value: string): Either.Either<ReadonlyArray<Address>, string> =>
    checkAddresses(
      value.split(",").filter((one) => one.trim() !== ""),
      otherwise
    )

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

const urlProblem =
  "expected redis://[user:password@]host[:port][/db], redis-sentinel://[user:password@]host[:port],…[/db]#master or " +
  "redis-cluster://[user:password@]host[:port],…; rediss… for TLS"

const severalPattern = /^(rediss?)-(sentinel|cluster):\/\/(?:([^@/]*)@)?([^@/?#]+)(?:\/(\d*))?(?:#([^#]+))?$/i

/** A URL of several addresses, which the platform's parser does not know. */
const parseSeveral = (found: RegExpExecArray): Either.Either<Place, string> => {
  const [, scheme = "", kind = "", credentials = "", addresses = "", db = "", fragment = ""] = found
  const colon = credentials.indexOf(":")
  const username = unescaped(colon < 0 ? credentials : credentials.slice(0, colon))
  const password = unescaped(colon < 0 ? "" : credentials.slice(colon + 1))
  const master = unescaped(fragment)
  if (username === undefined || password === undefined || master === undefined) return Either.left(percentProblem)
  const common = { username, password, db: db === "" ? 0 : Number(db), tls: scheme.toLowerCase() === "rediss" }
  if (kind.toLowerCase() === "cluster") {
    if (master !== "" || common.db !== 0) return Either.left(`${urlProblem}: a Cluster has database 0 alone`)
    return Either.map(
      parseAddresses(serverPort)(addresses),
      (nodes): Place => ({ ...common, topology: "cluster", nodes })
    )
  }
  if (master === "") return Either.left(`${urlProblem}: the name of the master stands behind #`)
  return Either.map(
    parseAddresses(sentinelPort)(addresses),
    (sentinels): Place => ({ ...common, topology: "sentinel", sentinels, master })
  )
}

const percentProblem = `${urlProblem}: a percent sign in the user or the password is written %25`

const parseUrl = (value: string): Either.Either<Place, string> => {
  const trimmed = value.trim()
  const several = severalPattern.exec(trimmed)
  if (several !== null) return parseSeveral(several)
  if (!URL.canParse(trimmed)) return Either.left(urlProblem)
  const url = new URL(trimmed)
  if (url.protocol !== "redis:" && url.protocol !== "rediss:") return Either.left(urlProblem)
  if (url.hostname === "" || url.hostname.includes(",")) return Either.left(urlProblem)
  const path = url.pathname.replace(/^\//, "")
  const inQuery = url.searchParams.get("db") ?? ""
  const db = path !== "" ? path : inQuery
  if (db !== "" && !/^\d+$/.test(db)) return Either.left(`${urlProblem}: the database is a number`)
  const username = unescaped(url.username)
  const password = unescaped(url.password)
  if (username === undefined || password === undefined) {
    return Either.left(percentProblem)
  }
  const port = url.port === "" ? Either.right(6379) : checkPort(Number(url.port))
  if (Either.isLeft(port)) return Either.left(`${urlProblem}: ${port.left}`)
  return Either.right({
    topology: "standalone",
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
