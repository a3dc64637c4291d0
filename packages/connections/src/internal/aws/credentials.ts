/**
 * Where the credentials of AWS come from: settings, an Effect of one's own, or the places that AWS' own tools look in, in
 * their order: environment, shared files, web identity, container, instance. They are kept until five minutes before
 * they expire and are asked for once at a time.
 */
import * as Fs from "node:fs/promises"
import * as Os from "node:os"
import * as Path from "node:path"
import { ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { type MetadataError, request } from "./metadata.ts"
import type { Credentials } from "./sign.ts"

export type { Credentials } from "./sign.ts"

/** What the errors are told with. */
export interface At {
  readonly kind: string
  readonly name: string
}

/**
 * `accessKeyId` with `secretAccessKey` are taken as they are. `credentials` is an Effect of one's own (SSO, a process, a
 * vault), asked again when what it gave expires. With neither, the usual places are looked in; `profile` names a section
 * of the shared files (`AWS_PROFILE`, else `default`).
 */
export interface CredentialsSettings {
  readonly accessKeyId?: string | undefined
  readonly secretAccessKey?: Redacted.Redacted | undefined
  readonly sessionToken?: Redacted.Redacted | undefined
  readonly profile?: string | undefined
  readonly credentials?: Effect.Effect<Credentials, ConnectionError> | undefined
}

const freshFor = 5 * 60_000
const tryAgainAfter = 10_000
/** How long credentials whose end cannot be read are taken as they are, before they are asked for again. */
const unreadableFor = 60_000
const limit = Duration.seconds(10)

/**
 * Makes the effect that gives credentials. What it asks for is asked in the background of the scope, so a caller that is
 * interrupted does not take the answer from the others; each attempt ends within 10 seconds.
 */
export const provider = (
  at: At,
  settings: CredentialsSettings
): Effect.Effect<Effect.Effect<Credentials, ConnectionError>, never, Scope.Scope> =>
  Effect.gen(function* () {
    const { accessKeyId, secretAccessKey, sessionToken } = settings
    if (accessKeyId !== undefined || secretAccessKey !== undefined) {
      return accessKeyId === undefined || secretAccessKey === undefined || accessKeyId === ""
        ? Effect.fail(
            failure(at, "InvalidSettings", "accessKeyId and secretAccessKey belong together: give both or neither")
          )
        : Effect.succeed<Credentials>({
            accessKeyId,
            secretAccessKey,
            ...(sessionToken === undefined ? {} : { sessionToken })
          })
    }
    const scope = yield* Effect.scope
    const config = yield* Effect.configProviderWith(Effect.succeed)
    const source = (settings.credentials ?? chain(at, settings)).pipe(
      Effect.withConfigProvider(config),
      Effect.disconnect,
      Effect.timeoutFail({
        duration: limit,
        onTimeout: () => failure(at, "Timeout", "no credentials within 10 seconds: see where they are to come from")
      })
    )

    // State of one closure, changed between two suspensions only: this is read for each request.
    let known: Credentials | undefined
    let underWay: Deferred.Deferred<Credentials, ConnectionError> | undefined
    let notBefore = 0
    let released = false
    const closed = failure(at, "Closed", "the connection was released")
    yield* Effect.addFinalizer(() =>
      Effect.suspend(() => {
        released = true
        known = undefined
        return underWay === undefined ? Effect.void : Deferred.fail(underWay, closed)
      })
    )

    const ask = Effect.suspend((): Effect.Effect<Deferred.Deferred<Credentials, ConnectionError>, ConnectionError> => {
      if (released) return Effect.fail(closed)
      if (underWay !== undefined) return Effect.succeed(underWay)
      const deferred = Deferred.unsafeMake<Credentials, ConnectionError>(FiberId.none)
      underWay = deferred
      const run = Effect.flatMap(Effect.exit(source), (exit) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => {
          underWay = undefined
          if (Exit.isSuccess(exit)) {
            known = readable(exit.value, now)
            notBefore = 0
          } else {
            notBefore = now + tryAgainAfter
          }
          return Deferred.done(deferred, known === undefined || Exit.isFailure(exit) ? exit : Exit.succeed(known))
        })
      )
      return Effect.as(Effect.forkIn(Effect.interruptible(run), scope), deferred)
    })

    return Effect.flatMap(Clock.currentTimeMillis, (now) => {
      if (known !== undefined) {
        const until = known.expiration?.getTime() ?? Number.POSITIVE_INFINITY
        if (now < until - freshFor) return Effect.succeed(known)
        // They are good for minutes yet: nobody waits, and a failure is no failure.
        if (now < until - freshFor / 5) {
          return now < notBefore ? Effect.succeed(known) : Effect.as(ask, known)
        }
        if (now < until && now < notBefore) return Effect.succeed(known)
      }
      const still = known !== undefined && now < (known.expiration?.getTime() ?? 0) ? known : undefined
      const asked = Effect.flatMap(Effect.uninterruptible(ask), Deferred.await)
      return still === undefined ? asked : Effect.catchAll(asked, () => Effect.succeed(still))
    })
  })

/** Those that end at a time that cannot be read may end soon: they are good for now, and are asked for again. */
const readable = (credentials: Credentials, now: number): Credentials =>
  Number.isNaN(credentials.expiration?.getTime())
    ? { ...credentials, expiration: new Date(now + freshFor + unreadableFor) }
    : credentials

/** The region: of the settings, else `AWS_REGION`, `AWS_DEFAULT_REGION`, or the profile's in the shared files. */
export const region = (
  at: At,
  settings: { readonly region?: string | undefined; readonly profile?: string | undefined }
): Effect.Effect<string, ConnectionError> =>
  settings.region !== undefined
    ? Effect.succeed(settings.region)
    : Effect.gen(function* () {
        const found =
          (yield* read(at, "AWS_REGION")) ??
          (yield* read(at, "AWS_DEFAULT_REGION")) ??
          (yield* profileOf(at, settings.profile)).values.get("region")
        return found === undefined || found === ""
          ? yield* failure(at, "InvalidSettings", "no region: set region, or AWS_REGION in the environment")
          : found
      })

const failure = (at: At, reason: ConnectionErrorReason, description: string, cause?: unknown): ConnectionError =>
  new ConnectionError({
    reason,
    kind: at.kind,
    connection: at.name,
    method: "credentials",
    description,
    ...(cause === undefined ? {} : { cause })
  })

/** A variable; empty is absent. */
const read = (at: At, name: string): Effect.Effect<string | undefined, ConnectionError> =>
  Effect.matchEffect(Config.option(Config.string(name)), {
    onFailure: () => Effect.fail(failure(at, "InvalidSettings", `${name} cannot be read from the configuration`)),
    onSuccess: (value) => Effect.succeed(Option.isSome(value) && value.value !== "" ? value.value : undefined)
  })

const chain = (at: At, settings: CredentialsSettings): Effect.Effect<Credentials, ConnectionError> =>
  Effect.gen(function* () {
    const profileName = settings.profile ?? (yield* read(at, "AWS_PROFILE"))
    // Who names a profile means it, whatever the environment holds.
    if (settings.profile === undefined) {
      const id = yield* read(at, "AWS_ACCESS_KEY_ID")
      const secret = yield* read(at, "AWS_SECRET_ACCESS_KEY")
      if (id !== undefined && secret !== undefined) {
        return credentialsOf(id, secret, yield* read(at, "AWS_SESSION_TOKEN"))
      }
    }
    const section = yield* profileOf(at, profileName)
    const fromFiles = yield* ofProfile(at, section)
    if (fromFiles !== undefined) return fromFiles
    if (profileName !== undefined) {
      return yield* failure(
        at,
        "InvalidSettings",
        section.found
          ? `the profile ${JSON.stringify(profileName)} has no keys that can be read here: give credentials as an Effect`
          : `there is no profile ${JSON.stringify(profileName)} in the shared files of AWS`
      )
    }
    const tokenFile = yield* read(at, "AWS_WEB_IDENTITY_TOKEN_FILE")
    const role = yield* read(at, "AWS_ROLE_ARN")
    if (tokenFile !== undefined && role !== undefined) {
      return yield* webIdentity(at, { tokenFile, role, session: yield* read(at, "AWS_ROLE_SESSION_NAME") })
    }
    const relative = yield* read(at, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    const full = yield* read(at, "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if (relative !== undefined || full !== undefined) return yield* container(at, relative, full)
    if ((yield* read(at, "AWS_EC2_METADATA_DISABLED"))?.toLowerCase() !== "true") return yield* instance(at)
    return yield* nowhere(at)
  })

const nowhere = (at: At, cause?: unknown): ConnectionError =>
  failure(
    at,
    "Authentication",
    "no credentials: set accessKeyId and secretAccessKey, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role",
    cause
  )

const credentialsOf = (id: string, secret: string, token: string | undefined, expiration?: Date): Credentials => ({
  accessKeyId: id,
  secretAccessKey: Redacted.make(secret),
  ...(token === undefined || token === "" ? {} : { sessionToken: Redacted.make(token) }),
  ...(expiration === undefined ? {} : { expiration })
})

// ---------------------------------------------------------------------------------------------------------------------
// Shared files
// ---------------------------------------------------------------------------------------------------------------------

interface Section {
  readonly found: boolean
  readonly values: ReadonlyMap<string, string>
}

/** A file's text, nothing where there is none. */
const fileText = (at: At, path: string): Effect.Effect<string, ConnectionError> =>
  Effect.tryPromise({ try: (signal) => Fs.readFile(path, { encoding: "utf8", signal }), catch: (cause) => cause }).pipe(
    Effect.catchAll((cause) =>
      cause instanceof Error && "code" in cause && (cause.code === "ENOENT" || cause.code === "ENOTDIR")
        ? Effect.succeed("")
        : Effect.fail(
            failure(
              at,
              "InvalidSettings",
              "a file with credentials cannot be read: let this user read it, `original` names it",
              cause
            )
          )
    )
  )

/** The values of a section of an INI file; nested ones, which are indented, are left out. */
export const parseSection = (text: string, names: ReadonlyArray<string>): ReadonlyMap<string, string> | undefined => {
  let values: Map<string, string> | undefined
  let within = false
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*([#;]|$)/.test(line)) continue
    const header = /^\[\s*([^\]]+?)\s*\]/.exec(line)
    if (header !== null) {
      within = names.includes((header[1] ?? "").replace(/\s+/g, " "))
      if (within) values ??= new Map()
      continue
    }
    const pair = /^([^\s=][^=]*?)\s*=\s*(.*?)\s*$/.exec(line)
    if (within && pair !== null) values?.set((pair[1] ?? "").toLowerCase(), (pair[2] ?? "").replace(/\s+[#;].*$/, ""))
  }
  return values
}

const profileOf = (at: At, name: string | undefined): Effect.Effect<Section, ConnectionError> =>
  Effect.gen(function* () {
    const profile = name ?? (yield* read(at, "AWS_PROFILE")) ?? "default"
    const folder = Path.join(Os.homedir(), ".aws")
    const ofConfig = yield* fileText(at, (yield* read(at, "AWS_CONFIG_FILE")) ?? Path.join(folder, "config"))
    const ofCredentials = yield* fileText(
      at,
      (yield* read(at, "AWS_SHARED_CREDENTIALS_FILE")) ?? Path.join(folder, "credentials")
    )
    const configured = parseSection(ofConfig, [`profile ${profile}`, ...(profile === "default" ? ["default"] : [])])
    const keys = parseSection(ofCredentials, [profile])
    return {
      found: configured !== undefined || keys !== undefined,
      values: new Map([...(configured ?? []), ...(keys ?? [])])
    }
  })

const ofProfile = (at: At, { values }: Section): Effect.Effect<Credentials | undefined, ConnectionError> => {
  const id = values.get("aws_access_key_id")
  const secret = values.get("aws_secret_access_key")
  const role = values.get("role_arn")
  const tokenFile = values.get("web_identity_token_file")
  if (role !== undefined && tokenFile !== undefined) {
    return webIdentity(at, { tokenFile, role, session: values.get("role_session_name"), region: values.get("region") })
  }
  return Effect.succeed(
    id === undefined || secret === undefined || id === "" || secret === "" || role !== undefined
      ? undefined
      : credentialsOf(id, secret, values.get("aws_session_token"))
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Web identity, container, instance
// ---------------------------------------------------------------------------------------------------------------------

const unavailable = (at: At, what: string) => (error: MetadataError) =>
  failure(
    at,
    error.status === undefined || error.status >= 500 || error.status === 429 ? "Unavailable" : "Authentication",
    `${what}: ${error.description}`,
    error
  )

const xmlText = (text: string, name: string): string | undefined =>
  new RegExp(`<${name}>([^<]*)</${name}>`).exec(text)?.[1]

/** `AssumeRoleWithWebIdentity`, which needs no signature. */
const webIdentity = (
  at: At,
  options: {
    readonly tokenFile: string
    readonly role: string
    readonly session?: string | undefined
    readonly region?: string | undefined
  }
): Effect.Effect<Credentials, ConnectionError> =>
  Effect.gen(function* () {
    const token = (yield* fileText(at, options.tokenFile)).trim()
    if (token === "")
      return yield* failure(at, "InvalidSettings", "the file with the web identity token is empty or absent")
    const region = options.region ?? (yield* read(at, "AWS_REGION")) ?? (yield* read(at, "AWS_DEFAULT_REGION"))
    const endpoint =
      (yield* read(at, "AWS_ENDPOINT_URL_STS")) ??
      (region === undefined ? "https://sts.amazonaws.com" : `https://sts.${region}.amazonaws.com${suffixOf(region)}`)
    const text = yield* Effect.mapError(
      request({
        url: yield* urlOf(at, "AWS_ENDPOINT_URL_STS", endpoint),
        method: "POST",
        headers: { "content-type": "application/x-www-form-urlencoded" },
        body: new URLSearchParams({
          Action: "AssumeRoleWithWebIdentity",
          Version: "2011-06-15",
          RoleArn: options.role,
          RoleSessionName: options.session ?? "underlay",
          WebIdentityToken: token
        }).toString(),
        timeout: 5_000
      }),
      unavailable(at, "the role of the web identity")
    )
    return yield* decoded(at, "the role of the web identity", {
      AccessKeyId: xmlText(text, "AccessKeyId"),
      SecretAccessKey: xmlText(text, "SecretAccessKey"),
      Token: xmlText(text, "SessionToken"),
      Expiration: xmlText(text, "Expiration")
    })
  })

const suffixOf = (region: string): string => (region.startsWith("cn-") ? ".cn" : "")

const urlOf = (at: At, what: string, text: string): Effect.Effect<URL, ConnectionError> =>
  Effect.try({ try: () => new URL(text), catch: () => failure(at, "InvalidSettings", `${what} is not a URL`) })

const Handed = Schema.Struct({
  AccessKeyId: Schema.NonEmptyString,
  SecretAccessKey: Schema.NonEmptyString,
  Token: Schema.optional(Schema.String),
  Expiration: Schema.optional(Schema.String)
})

const decoded = (at: At, what: string, answer: unknown): Effect.Effect<Credentials, ConnectionError> =>
  Effect.matchEffect(Schema.decodeUnknown(Handed)(answer), {
    // The cause would hold what was found in place of a key.
    onFailure: () => Effect.fail(failure(at, "Authentication", `${what}: the answer has no credentials`)),
    onSuccess: (value) =>
      Effect.succeed(
        credentialsOf(
          value.AccessKeyId,
          value.SecretAccessKey,
          value.Token,
          value.Expiration === undefined ? undefined : new Date(value.Expiration)
        )
      )
  })

const parsed = (at: At, what: string, text: string): Effect.Effect<Credentials, ConnectionError> =>
  Effect.flatMap(
    Effect.try({
      try: (): unknown => JSON.parse(text),
      catch: () => failure(at, "Authentication", `${what}: the answer is not JSON`)
    }),
    (answer) => decoded(at, what, answer)
  )

/** ECS and EKS. A secret is sent to this machine, to the addresses of AWS for it, or over TLS, and nowhere else. */
const container = (
  at: At,
  relative: string | undefined,
  full: string | undefined
): Effect.Effect<Credentials, ConnectionError> =>
  Effect.gen(function* () {
    const what = "the credentials of the container"
    const url =
      relative === undefined
        ? yield* urlOf(at, "AWS_CONTAINER_CREDENTIALS_FULL_URI", full ?? "")
        : yield* urlOf(at, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", `http://169.254.170.2${relative}`)
    const near = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\]|169\.254\.170\.(2|23)|\[fd00:ec2::23\])$/.test(url.hostname)
    if (url.protocol !== "https:" && !near) {
      return yield* failure(
        at,
        "InvalidSettings",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI must be https or of this machine"
      )
    }
    const tokenFile = yield* read(at, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    const token =
      tokenFile === undefined
        ? yield* read(at, "AWS_CONTAINER_AUTHORIZATION_TOKEN")
        : (yield* fileText(at, tokenFile)).trim()
    if (token !== undefined && /[\r\n]/.test(token)) {
      return yield* failure(at, "InvalidSettings", "the container's authorization token has more than one line")
    }
    const text = yield* Effect.mapError(
      request({ url, headers: token === undefined ? {} : { authorization: token }, timeout: 2_000 }),
      unavailable(at, what)
    )
    return yield* parsed(at, what, text)
  })

/** The role of an EC2 instance, by version 2 of its metadata service. */
const instance = (at: At): Effect.Effect<Credentials, ConnectionError> =>
  Effect.gen(function* () {
    const what = "the role of the instance"
    const endpoint = (yield* read(at, "AWS_EC2_METADATA_SERVICE_ENDPOINT")) ?? "http://169.254.169.254"
    const path = (to: string) =>
      urlOf(at, "AWS_EC2_METADATA_SERVICE_ENDPOINT", `${endpoint.replace(/\/$/, "")}/latest/${to}`)
    // Not on an instance nothing answers: that is no credentials, told after a second.
    const token = yield* Effect.mapError(
      request({
        url: yield* path("api/token"),
        method: "PUT",
        headers: { "x-aws-ec2-metadata-token-ttl-seconds": "300" },
        timeout: 1_000
      }),
      (error) => nowhere(at, error)
    )
    const headers = { "x-aws-ec2-metadata-token": token.trim() }
    const folder = "meta-data/iam/security-credentials/"
    const roles = yield* Effect.mapError(request({ url: yield* path(folder), headers, timeout: 2_000 }), (error) =>
      error.status === 404 ? nowhere(at, error) : unavailable(at, what)(error)
    )
    const role = roles.split("\n")[0]?.trim() ?? ""
    if (role === "") return yield* nowhere(at)
    const text = yield* Effect.mapError(
      request({ url: yield* path(`${folder}${encodeURIComponent(role)}`), headers, timeout: 2_000 }),
      unavailable(at, what)
    )
    return yield* parsed(at, what, text)
  })
