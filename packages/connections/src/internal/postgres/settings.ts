/**
 * Where a server is and how its connections are made, of a URL and what is said beside it. What is said beside the URL
 * wins, and TLS that is asked for is never given up.
 */
import * as Fs from "node:fs"
import type { ConnectionOptions } from "node:tls"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import type * as Pg from "pg"

export type TlsMode = "disable" | "require" | "no-verify" | "verify-ca" | "verify-full"

export interface TlsSettings extends Omit<ConnectionOptions, "key" | "passphrase"> {
  readonly mode?: TlsMode | undefined
  readonly caFile?: string | undefined
  readonly certFile?: string | undefined
  readonly keyFile?: string | undefined
  readonly key?: Redacted.Redacted | ConnectionOptions["key"]
  readonly passphrase?: Redacted.Redacted | string | undefined
}

export type Password = Redacted.Redacted | Effect.Effect<Redacted.Redacted, ConnectionError>

export interface Where {
  readonly url?: Redacted.Redacted | undefined
  readonly host?: string | undefined
  readonly port?: number | undefined
  readonly database?: string | undefined
  readonly username?: string | undefined
  readonly password?: Password | undefined
  readonly ssl?: boolean | TlsMode | TlsSettings | undefined
}

/** What is known of a server; what is undefined is for the driver's own rules (`PGHOST` and the others). */
export interface Resolved {
  readonly host: string | undefined
  readonly port: number | undefined
  readonly database: string | undefined
  readonly username: string | undefined
  readonly password: Password | undefined
  readonly ssl: boolean | ConnectionOptions | undefined
  readonly applicationName: string | undefined
  readonly options: string | undefined
  readonly connectTimeoutMillis: number | undefined
  readonly channelBinding: boolean
}

type Fail = (description: string, cause?: unknown) => ConnectionError

const modes: ReadonlyArray<TlsMode> = ["disable", "require", "no-verify", "verify-ca", "verify-full"]

const modeOf = (value: string): TlsMode | undefined => modes.find((mode) => mode === value)

const notAsked =
  "sslmode prefer and allow may end in a connection without TLS: say disable, require, verify-ca or verify-full"

class Wrong extends Error {
  readonly description: string
  constructor(description: string, cause?: unknown) {
    super(description, { cause })
    this.description = description
  }
}

const read = (path: string): string => {
  try {
    return Fs.readFileSync(path, "utf8")
  } catch (cause) {
    throw new Wrong(
      "a file of certificates that the settings name cannot be read: check its path and that this user may read it",
      cause
    )
  }
}

const plain = (value: unknown): unknown => (Redacted.isRedacted(value) ? Redacted.value(value) : value)

/** The options of `node:tls`: what is given as such stays, the mode says what is verified. */
const optionsOf = (mode: TlsMode, settings: TlsSettings): ConnectionOptions => {
  const { caFile, certFile, key, keyFile, mode: _, passphrase, ...rest } = settings
  const given: ConnectionOptions = {
    ...rest,
    ...(caFile === undefined ? {} : { ca: read(caFile) }),
    ...(certFile === undefined ? {} : { cert: read(certFile) }),
    ...(keyFile === undefined ? {} : { key: read(keyFile) }),
    ...(key === undefined ? {} : { key: Redacted.isRedacted(key) ? Redacted.value(key) : key }),
    ...(passphrase === undefined ? {} : { passphrase: String(plain(passphrase)) })
  }
  switch (mode) {
    case "disable":
    case "no-verify":
      return { ...given, rejectUnauthorized: false }
    case "require":
      // As libpq does: with an authority its certificates are verified, without one nothing is.
      return given.ca === undefined
        ? { ...given, rejectUnauthorized: false }
        : { ...given, checkServerIdentity: () => undefined }
    case "verify-ca":
      if (given.ca === undefined) {
        throw new Wrong("sslmode verify-ca needs the authority (ca, caFile or sslrootcert); or say verify-full")
      }
      return { ...given, checkServerIdentity: () => undefined }
    case "verify-full":
      return given
  }
}

const tlsOf = (
  ssl: Where["ssl"],
  urlMode: TlsMode | undefined,
  urlFiles: TlsSettings
): boolean | ConnectionOptions | undefined => {
  const hasFiles = Object.keys(urlFiles).length > 0
  if (ssl === undefined) {
    if (urlMode === undefined) return hasFiles ? optionsOf("verify-full", urlFiles) : undefined
    return urlMode === "disable" ? false : optionsOf(urlMode, urlFiles)
  }
  if (ssl === false || ssl === "disable") return false
  if (ssl === true) return optionsOf("verify-full", urlFiles)
  if (typeof ssl === "string") return optionsOf(ssl, urlFiles)
  if (ssl.mode === "disable") return false
  const mode = ssl.mode ?? "verify-full"
  return optionsOf(mode, { ...urlFiles, ...ssl })
}

const known = {
  sslmode: true,
  sslrootcert: true,
  sslcert: true,
  sslkey: true,
  sslpassword: true,
  ssl: true
} as const

const fromUrl = (
  text: string
): Where & Partial<Resolved> & { readonly mode?: TlsMode; readonly files: TlsSettings } => {
  const example = "the URL has to be like postgres://user:password@host:5432/database, special characters escaped"
  if (!URL.canParse(text)) throw new Wrong(example)
  const url = new URL(text)
  if (url.protocol !== "postgres:" && url.protocol !== "postgresql:") throw new Wrong(example)
  const decode = (part: string): string | undefined => {
    try {
      return part === "" ? undefined : decodeURIComponent(part)
    } catch {
      throw new Wrong(example)
    }
  }
  const query = url.searchParams
  const asked = (name: string): string | undefined => {
    const value = query.get(name)
    return value === null || value === "" ? undefined : value
  }
  for (const name of query.keys()) {
    if (name.startsWith("ssl") && !(name in known)) {
      throw new Wrong("the URL asks for something of TLS that is not known here: sslmode, sslrootcert, sslcert, sslkey")
    }
  }
  const host = asked("host") ?? decode(url.hostname)?.replace(/^\[(.+)\]$/, "$1")
  if (host?.includes(",") === true) throw new Wrong("the URL names several hosts: give one, and the others as replicas")
  const session = asked("target_session_attrs")
  if (session !== undefined && session !== "any") {
    throw new Wrong("target_session_attrs of the URL is not supported: name the primary, and the others as replicas")
  }
  const port = asked("port") ?? (url.port === "" ? undefined : url.port)
  if (port !== undefined && !/^\d{1,5}$/.test(port)) throw new Wrong(example)
  const sslmode = asked("sslmode")
  const ssl = asked("ssl")
  const mode =
    sslmode === undefined
      ? ssl === undefined
        ? undefined
        : ssl === "true" || ssl === "1"
          ? "verify-full"
          : ssl === "false" || ssl === "0"
            ? "disable"
            : modeOf(ssl)
      : modeOf(sslmode)
  if (mode === undefined && (sslmode !== undefined || ssl !== undefined)) throw new Wrong(notAsked)
  const binding = asked("channel_binding")
  const timeout = asked("connect_timeout")
  const [ca, cert, key, passphrase] = [asked("sslrootcert"), asked("sslcert"), asked("sslkey"), asked("sslpassword")]
  return {
    host,
    port: port === undefined ? undefined : Number(port),
    database: asked("dbname") ?? decode(url.pathname.slice(1)),
    username: asked("user") ?? decode(url.username),
    password: (() => {
      const password = asked("password") ?? decode(url.password)
      return password === undefined ? undefined : Redacted.make(password)
    })(),
    ...(mode === undefined ? {} : { mode }),
    files: {
      ...(ca === undefined ? {} : { caFile: ca }),
      ...(cert === undefined ? {} : { certFile: cert }),
      ...(key === undefined ? {} : { keyFile: key }),
      ...(passphrase === undefined ? {} : { passphrase })
    },
    applicationName: asked("application_name"),
    options: asked("options"),
    connectTimeoutMillis:
      timeout === undefined || !/^\d+$/.test(timeout) ? undefined : Number(timeout) * 1_000 || undefined,
    channelBinding: binding === "require" || binding === "prefer"
  }
}

/** Of a URL and the parts beside it; what neither says is taken from `base`. */
export const resolve = (
  where: Where,
  base: Resolved | undefined,
  fail: Fail
): Effect.Effect<Resolved, ConnectionError> =>
  Effect.try({
    try: (): Resolved => {
      const url = where.url === undefined ? undefined : fromUrl(Redacted.value(where.url))
      return {
        host: where.host ?? url?.host ?? base?.host,
        port: where.port ?? url?.port ?? (where.host === undefined && url?.host === undefined ? base?.port : undefined),
        database: where.database ?? url?.database ?? base?.database,
        username: where.username ?? url?.username ?? base?.username,
        password: where.password ?? url?.password ?? base?.password,
        ssl: tlsOf(where.ssl, url?.mode, url?.files ?? {}) ?? base?.ssl,
        applicationName: url?.applicationName ?? base?.applicationName,
        options: url?.options ?? base?.options,
        connectTimeoutMillis: url?.connectTimeoutMillis ?? base?.connectTimeoutMillis,
        channelBinding: url?.channelBinding === true || base?.channelBinding === true
      }
    },
    catch: (error) =>
      error instanceof Wrong
        ? fail(error.description, error.cause)
        : fail("the settings cannot be used: `original` says which", error)
  })

/** For the driver. The password is asked for anew each time. */
export const configOf = (
  resolved: Resolved,
  extra: Pg.ClientConfig,
  readOnly: boolean
): Effect.Effect<Pg.ClientConfig, ConnectionError> => {
  const { channelBinding, database, host, options, password, port, ssl, username } = resolved
  const asked = [options, readOnly ? "-c default_transaction_read_only=on" : undefined].filter(
    (option) => option !== undefined
  )
  const config: Pg.ClientConfig = {
    ...(host === undefined ? {} : { host }),
    ...(port === undefined ? {} : { port }),
    ...(database === undefined ? {} : { database }),
    ...(username === undefined ? {} : { user: username }),
    ...(ssl === undefined ? {} : { ssl }),
    ...(asked.length === 0 ? {} : { options: asked.join(" ") }),
    ...(channelBinding ? { enableChannelBinding: true } : {}),
    ...extra
  }
  if (password === undefined) return Effect.succeed(config)
  return Redacted.isRedacted(password)
    ? Effect.succeed({ ...config, password: String(Redacted.value(password)) })
    : // It may be uninterruptible, and the time to connect holds all the same.
      Effect.map(Effect.flatten(Effect.disconnect(Effect.exit(password))), (current) => ({
        ...config,
        password: Redacted.value(current)
      }))
}
