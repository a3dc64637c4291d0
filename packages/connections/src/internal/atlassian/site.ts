/**
 * What Jira and Confluence have in common: where a site is, who asks, what its errors say, and pages that go on.
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { type CheckResult, ConnectionError, type ConnectionErrorReason } from "@underlay/core/connection/Connection"
import * as Chunk from "effect/Chunk"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Encoding from "effect/Encoding"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as HttpConnection from "../http/httpConnection.ts"
import * as Transport from "../http/transport.ts"
import type { SiteSettings } from "./settings.ts"

type Product = "jira" | "confluence"

export interface At {
  readonly kind: Product
  readonly name: string
}

export const failure = (
  at: At,
  reason: ConnectionErrorReason,
  method: string,
  description: string,
  cause?: unknown
): ConnectionError =>
  new ConnectionError({
    reason,
    kind: at.kind,
    connection: at.name,
    method,
    description,
    ...(cause === undefined ? {} : { cause })
  })

const isLoopback = (host: string): boolean =>
  host === "localhost" || host === "[::1]" || /^127(?:\.\d{1,3}){3}$/.test(host)

/** The address that all paths of the product are put behind, or what is wrong with the settings. */
export const baseOf = (at: At, settings: SiteSettings): Effect.Effect<URL, ConnectionError> => {
  const invalid = (description: string) => failure(at, "InvalidSettings", "make", description)
  const { cloudId, url } = settings
  if ((url === undefined) === (cloudId === undefined)) {
    return invalid(
      "give either url, the address of the site (https://your-domain.atlassian.net), or cloudId, with which a token of " +
        "OAuth or of a service account is used"
    )
  }
  if (cloudId !== undefined) {
    return /^[\w-]{1,100}$/.test(cloudId)
      ? Effect.succeed(new URL(`https://api.atlassian.com/ex/${at.kind}/${cloudId}`))
      : invalid("cloudId is an id, such as 11223344-a1b2-3b33-c444-def123456789")
  }
  const text = String(url)
  if (!URL.canParse(text)) return invalid("url has to be like https://your-domain.atlassian.net")
  const parsed = new URL(text)
  if (parsed.username !== "" || parsed.password !== "") {
    return invalid("email and token belong to the settings, not into url")
  }
  if (parsed.search !== "" || parsed.hash !== "") return invalid("url ends with its path: leave out what is behind it")
  if (parsed.protocol !== "https:") {
    const loopback = parsed.protocol === "http:" && isLoopback(parsed.hostname)
    if (!loopback || settings.allowInsecureLoopback !== true) {
      return invalid(
        loopback
          ? "url is not https: for a server on this machine, say so with allowInsecureLoopback"
          : "url has to begin with https: the token would be sent in plain text"
      )
    }
  }
  parsed.pathname = parsed.pathname.replace(/\/+$/, "")
  if (parsed.hostname === "api.atlassian.com" && !new RegExp(`^/ex/${at.kind}/[\\w-]+$`).test(parsed.pathname)) {
    return invalid(`url at api.atlassian.com ends with /ex/${at.kind}/<cloudId>: give cloudId instead`)
  }
  if (/\/rest\/|\/api\/v2|\/rest$/.test(parsed.pathname)) {
    return invalid("url is the address of the site, without the path of its API")
  }
  // The site of Confluence is often given as it is shown in a browser.
  if (at.kind === "confluence") parsed.pathname = parsed.pathname.replace(/\/wiki$/, "")
  return Effect.succeed(parsed)
}

const headersOf = (at: At, settings: SiteSettings): Effect.Effect<HttpConnection.RequestHeaders, ConnectionError> => {
  const { email, token } = settings
  const current = Redacted.isRedacted(token) ? Effect.succeed(token) : token
  return Effect.flatMap(current, (secret) =>
    // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for
    (email === undefined ? /[^\x20-\x7e]/ : /[\u0000-\u001f\u007f]/).test(Redacted.value(secret))
      ? failure(at, "InvalidSettings", "make", "token has characters that no token has, such as a line end")
      : Effect.succeed({
          accept: "application/json",
          authorization: Redacted.make(
            email === undefined
              ? `Bearer ${Redacted.value(secret)}`
              : `Basic ${Encoding.encodeBase64(`${email}:${Redacted.value(secret)}`)}`
          )
        })
  )
}

const record = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? { ...value } : {}

const list = (value: unknown): ReadonlyArray<unknown> => (Array.isArray(value) ? value : [])

/** Names of fields are shown, up to ten; nothing else that could repeat what was sent. */
const fieldNames = (body: unknown): ReadonlyArray<string> => {
  const names = Object.keys(record(record(body)["errors"]))
  for (const error of list(record(body)["errors"])) {
    // Confluence names the place of an error in `source.pointer` or `source.parameter`.
    const source = record(record(error)["source"])
    const name = source["parameter"] ?? source["pointer"]
    if (typeof name === "string") names.push(name.replace(/^\//, ""))
  }
  return names.filter((name) => /^[\w./-]{1,60}$/.test(name)).slice(0, 10)
}

const codesOf = (body: unknown): string | undefined => {
  const codes = list(record(body)["errors"])
    .map((error) => record(error)["code"])
    .filter((code): code is string => typeof code === "string" && /^[A-Z][A-Z_]{1,60}$/.test(code))
  return codes[0]
}

const messagesOf = (body: unknown): ReadonlyArray<string> => {
  const fields = record(body)
  return [...list(fields["errorMessages"]), fields["message"]].filter(
    (each): each is string => typeof each === "string"
  )
}

/** The number that a conflict of versions tells. */
const versionOf = (body: unknown): string | undefined =>
  [
    ...messagesOf(body),
    ...list(record(body)["errors"]).flatMap((error) => [record(error)["title"], record(error)["detail"]])
  ]
    .map((text) => (typeof text === "string" ? /current version\D{0,8}(\d{1,9})/i.exec(text)?.[1] : undefined))
    .find((number) => number !== undefined)

/** What an error of Atlassian means. Its sentences can repeat what was sent, so they are recognised but not shown. */
const errorOf = (
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string | undefined>>
): HttpConnection.ServiceError => {
  const names = fieldNames(body)
  const messages = messagesOf(body)
  const code = codesOf(body) ?? String(status)
  if (status >= 200 && status < 300) {
    return {
      reason: "Unknown",
      code,
      description: "the answer to a write is a web page: is url the site, and are the credentials accepted there?"
    }
  }
  const about = names.length === 0 ? "" : `: see ${names.length === 1 ? "field" : "fields"} ${names.join(", ")}`
  if (status >= 300 && status < 400) {
    const to = headers["location"] ?? ""
    return /login|signin|auth|id\.atlassian\.com|sso/i.test(to)
      ? {
          reason: "Authentication",
          code,
          description:
            "the site sends to its login page: the credentials are not accepted there, or the site has another address"
        }
      : { reason: "InvalidRequest", code, description: "the site has moved: see whether url is right" }
  }
  if (status === 401 || headers["x-seraph-loginreason"]?.includes("FAILED") === true) {
    return {
      reason: "Authentication",
      code,
      description: "the credentials were refused: see that email and token are right, not expired, and of this site"
    }
  }
  if (headers["x-authentication-denied-reason"]?.includes("CAPTCHA") === true) {
    return { reason: "Authentication", code, description: "the site wants a person to log in first (CAPTCHA)" }
  }
  if (status === 403) {
    return { code, description: `the user or the scopes of the token do not permit this${about}` }
  }
  if (status === 410) {
    return { reason: "Unsupported", code, description: "the site has this no more: it was removed from the API" }
  }
  if (status === 404) {
    return { code, description: `there is no such thing, or the user may not see it${about}` }
  }
  if (status === 413) {
    return { code, description: "it is larger than the site takes" }
  }
  if (status === 409) {
    const version = versionOf(body)
    const current = version === undefined ? "" : `; the current version is ${version}`
    return { code, description: `it was changed meanwhile, or is there already${about}${current}` }
  }
  if (status === 400 || status === 422) {
    if (messages.some((each) => /nextPageToken|page token|cursor/i.test(each))) {
      return { code, description: "the token of the page is not valid any more: begin again" }
    }
    if (messages.some((each) => /\bJQL\b|\bCQL\b|query|does not exist for the field|could not parse/i.test(each))) {
      return { code, description: `the query was refused: see its fields, values and functions${about}` }
    }
    const more = messages.length === 0 ? "" : ` (${messages.length} ${messages.length === 1 ? "message" : "messages"})`
    return { code, description: `the request was refused${about}${more}` }
  }
  return { code }
}

/** Where a limit is told by `X-RateLimit-Reset` alone, it is told as `Retry-After` too. */
const withReset = (client: HttpClient.HttpClient): HttpClient.HttpClient =>
  HttpClient.transformResponse(
    client,
    Effect.flatMap((response) => {
      const reset = response.headers["x-ratelimit-reset"]
      if (response.status !== 429 || response.headers["retry-after"] !== undefined || reset === undefined) {
        return Effect.succeed(response)
      }
      const at = /^\d{4}-\d\d-\d\dT/.test(reset)
        ? Date.parse(reset)
        : /^\d{9,11}$/.test(reset)
          ? Number(reset) * 1000
          : Number.NaN
      if (Number.isNaN(at)) return Effect.succeed(response)
      return Effect.map(response.arrayBuffer, (body) =>
        HttpClientResponse.fromWeb(
          response.request,
          new Response(body, {
            status: 429,
            headers: { ...response.headers, "retry-after": new Date(Math.ceil(at / 1000) * 1000).toUTCString() }
          })
        )
      )
    })
  )

export interface Site {
  readonly at: At
  readonly http: HttpConnection.HttpConnection
  readonly base: URL
  /** Sends what belongs to no call, with none of our headers. */
  readonly bare: HttpClient.HttpClient
  readonly timeout: Duration.DurationInput
}

export const make = Effect.fnUntraced(function* (
  at: At,
  settings: SiteSettings,
  check: (http: HttpConnection.HttpConnection) => Effect.Effect<CheckResult, ConnectionError>
): Effect.fn.Return<Site, ConnectionError, Scope.Scope> {
  const base = yield* baseOf(at, settings)
  const transport = yield* Transport.make(at, {
    connections: settings.maxConnections ?? 50,
    connectTimeout: settings.connectTimeout ?? "5 seconds",
    tls: settings.tls
  })
  const timeout = settings.timeout ?? "30 seconds"
  const http = yield* HttpConnection.make({
    kind: at.kind,
    name: at.name,
    plane: settings.plane ?? "external",
    connect: settings.connect,
    baseUrl: base,
    headers: headersOf(at, settings),
    timeout,
    maxConnections: settings.maxConnections,
    retries: settings.retries,
    retryDelay: settings.retryDelay,
    slowAfter: settings.slowAfter,
    logLevels: settings.logLevels,
    connectTimeout: settings.connectTimeout,
    drainTimeout: settings.drainTimeout,
    healthTimeout: settings.healthTimeout,
    errorOf,
    check,
    client: withReset(transport)
  })
  return { at, http, base, bare: HttpClient.withTracerDisabledWhen(transport, () => true), timeout }
})

/** A page: what is in it, and where the next begins. */
export interface Page<A> {
  readonly items: ReadonlyArray<A>
  readonly next: string | undefined
}

/**
 * What the user may not see is left out of pages, so that some are empty, and many in a row where he sees little of much:
 * as long as each leads to another place that is progress. So many pages of a hundred pass over a million things; a
 * service that gives more of them would be followed for hours, and for ever if it makes up its tokens.
 */
const maxEmpty = 10_000

/**
 * Pages one after the other. A service that goes in circles is an error: one that gives a place it gave before, or the same
 * things again. So is one that gives nothing on `maxEmpty` pages in a row.
 */
export const pages = <A>(
  at: At,
  operation: string,
  idOf: (item: A) => string | undefined,
  page: (from: string | undefined) => Effect.Effect<Page<A>, ConnectionError>
): Stream.Stream<A, ConnectionError> =>
  Stream.suspend(() => {
    const left = (description: string) => failure(at, "Unknown", operation, `${description}, and was left`)
    const seen = new Set<string>()
    let before: string | undefined
    let empty = 0
    return Stream.paginateChunkEffect(undefined as string | undefined, (from) =>
      Effect.flatMap(page(from), ({ items, next }) => {
        const ids = items.map((item) => idOf(item) ?? "").join("\n")
        const again = items.length > 0 && ids === before && /[^\n]/.test(ids)
        before = ids
        empty = items.length === 0 ? empty + 1 : 0
        if (again) return left("the service gave the same page twice: it goes in circles")
        if (next !== undefined && seen.has(next)) {
          return left("the service gave the token of a page twice: it goes in circles")
        }
        if (next !== undefined && empty >= maxEmpty) {
          return left(
            `the service gave ${maxEmpty.toLocaleString("en")} pages with nothing on them, one after the other`
          )
        }
        if (next !== undefined) seen.add(next)
        return Effect.succeed([
          Chunk.unsafeFromArray([...items]),
          next === undefined ? Option.none<string | undefined>() : Option.some(next)
        ] as const)
      })
    )
  })

/** Pages that are counted from `startAt`. A page that is empty is the last, whatever it says of itself. */
export const countedPages = <A>(
  at: At,
  operation: string,
  idOf: (item: A) => string | undefined,
  page: (
    startAt: number
  ) => Effect.Effect<
    { readonly items: ReadonlyArray<A>; readonly isLast?: boolean | undefined; readonly total?: number | undefined },
    ConnectionError
  >
): Stream.Stream<A, ConnectionError> =>
  pages(at, operation, idOf, (from) => {
    const startAt = Number(from ?? 0)
    return Effect.map(page(startAt), ({ isLast, items, total }) => {
      const end = startAt + items.length
      const over =
        items.length === 0 || isLast === true || (isLast === undefined && total !== undefined && end >= total)
      return { items, next: over ? undefined : String(end) }
    })
  })

const maxHops = 5

/**
 * The body of an answer as a stream. A redirect is followed, at most five times, and to another host without any header of
 * ours; one to a login page is a refusal.
 */
export const download = (
  site: Site,
  operation: string,
  request: HttpClientRequest.HttpClientRequest
): Stream.Stream<Uint8Array, ConnectionError> => {
  const { at, base, bare, http } = site
  const isRedirect = (status: number): boolean =>
    status === 301 || status === 302 || status === 303 || status === 307 || status === 308
  const accept = (status: number): boolean => (status >= 200 && status < 300) || isRedirect(status)
  const limit = <A, R>(effect: Effect.Effect<A, ConnectionError, R>) =>
    Effect.timeoutFail(effect, {
      duration: site.timeout,
      onTimeout: () => failure(at, "Timeout", operation, "the service did not answer in time")
    })
  const follow = (
    response: HttpClientResponse.HttpClientResponse,
    from: URL,
    hops: number
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, ConnectionError, Scope.Scope> => {
    if (!isRedirect(response.status)) return Effect.succeed(response)
    const location = response.headers["location"]
    if (location === undefined || !URL.canParse(location, from.href)) {
      return failure(at, "Unknown", operation, "the service redirects to nowhere")
    }
    if (hops >= maxHops) return failure(at, "Unknown", operation, "the service redirects without end")
    const to = new URL(location, from.href)
    if (to.protocol !== "https:" && !(to.protocol === "http:" && base.protocol === "http:")) {
      return failure(at, "Unknown", operation, "the service redirects to an address that is not https")
    }
    if (/\/login(?:\.|\/|$)|id\.atlassian\.com/i.test(`${to.host}${to.pathname}`)) {
      return failure(
        at,
        "Authentication",
        operation,
        "the site sends to its login page: the credentials are not accepted"
      )
    }
    const drained = Effect.ignore(Effect.timeoutOption(Stream.runDrain(response.stream), "2 seconds"))
    const prefix = base.href.replace(/\/$/, "")
    const next =
      to.origin === base.origin && to.href.startsWith(`${prefix}/`)
        ? http.response(operation, HttpClientRequest.get(to.href.slice(prefix.length)), { accept })
        : limit(
            Effect.flatMap(
              Effect.mapError(HttpClient.withScope(bare).execute(HttpClientRequest.get(to)), (error) =>
                HttpConnection.fromTransport(at, operation, error)
              ),
              (answer) =>
                accept(answer.status)
                  ? Effect.succeed(answer)
                  : failure(
                      at,
                      answer.status === 404
                        ? "NotFound"
                        : answer.status === 429
                          ? "Throttled"
                          : answer.status >= 500
                            ? "Unavailable"
                            : "PermissionDenied",
                      operation,
                      `the place that the service redirects to answered with ${answer.status}`
                    )
            )
          )
    return Effect.zipRight(
      drained,
      Effect.flatMap(next, (answer) => follow(answer, to, hops + 1))
    )
  }
  return Stream.unwrapScoped(
    Effect.map(
      Effect.flatMap(http.response(operation, request, { accept, idempotent: true }), (response) => {
        const from = new URL(`${base.href.replace(/\/$/, "")}${request.url}`)
        return follow(response, from, 0)
      }),
      (response) =>
        response.stream.pipe(
          Stream.mapError((error) => HttpConnection.fromTransport(at, operation, error)),
          Stream.timeoutFail(
            () => failure(at, "Timeout", operation, "the service sent nothing more for a while"),
            site.timeout
          )
        )
    )
  )
}

/** A file to upload: bytes, or a stream of them. */
export interface Upload {
  readonly name: string
  readonly content: Uint8Array | Stream.Stream<Uint8Array, unknown>
  /** Its media type: `application/octet-stream`. */
  readonly type?: string | undefined
}

const quoted = (text: string): string =>
  text.replace(/[\r\n"]/g, (char) => (char === '"' ? "%22" : char === "\r" ? "%0D" : "%0A"))

/** A form with files, as a stream of bytes. */
export const multipart = (
  files: ReadonlyArray<Upload>,
  fields: Readonly<Record<string, string>> = {}
): { readonly contentType: string; readonly body: Stream.Stream<Uint8Array, unknown> } => {
  const boundary = `underlay-${crypto.randomUUID()}`
  const encoder = new TextEncoder()
  const text = (value: string): Stream.Stream<Uint8Array> => Stream.succeed(encoder.encode(value))
  let body: Stream.Stream<Uint8Array, unknown> = Stream.empty
  for (const [name, value] of Object.entries(fields)) {
    body = Stream.concat(
      body,
      text(`--${boundary}\r\ncontent-disposition: form-data; name="${quoted(name)}"\r\n\r\n${value}\r\n`)
    )
  }
  for (const { content, name, type } of files) {
    body = body.pipe(
      Stream.concat(
        text(
          `--${boundary}\r\ncontent-disposition: form-data; name="file"; filename="${quoted(name)}"\r\n` +
            `content-type: ${/^[\w.+-]+\/[\w.+-]+(?:; ?[\w-]+=[\w-]+)*$/.test(type ?? "") ? type : "application/octet-stream"}\r\n\r\n`
        )
      ),
      Stream.concat(content instanceof Uint8Array ? Stream.succeed(content) : content),
      Stream.concat(text("\r\n"))
    )
  }
  return {
    contentType: `multipart/form-data; boundary=${boundary}`,
    body: Stream.concat(body, text(`--${boundary}--\r\n`))
  }
}

/** Watches the content of an upload, so that its failure is told from the service's. */
export const uploading = <A>(
  at: At,
  operation: string,
  files: ReadonlyArray<Upload>,
  send: (files: ReadonlyArray<Upload>) => Effect.Effect<A, ConnectionError>
): Effect.Effect<A, ConnectionError> =>
  Effect.suspend(() => {
    let failed: { readonly cause: unknown } | undefined
    const watched = files.map((file) => ({
      ...file,
      content:
        file.content instanceof Uint8Array
          ? file.content
          : Stream.tapError(file.content, (cause) =>
              Effect.sync(() => {
                failed = { cause }
              })
            )
    }))
    return Effect.mapError(send(watched), (error) =>
      failed === undefined
        ? error
        : failure(
            at,
            "Cancelled",
            operation,
            "the stream of the content to upload failed: `original` is what it failed with",
            failed.cause
          )
    )
  })
