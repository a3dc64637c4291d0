/**
 * A service that is reached by HTTP, as a connection: requests with the service's headers, answers read whole and decoded,
 * errors by status. On the external plane each call is one span with its attempts inside; on the internal plane nothing is
 * shown, and nothing is sent twice.
 */
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import {
  type CheckResult,
  type Connection,
  ConnectionError,
  type ConnectionErrorReason,
  type ConnectMode,
  type Plane
} from "@underlay/core/connection/Connection"
import * as ConnectionLifecycle from "@underlay/core/connection/ConnectionLifecycle"
import type * as ExternalClient from "@underlay/core/external/ExternalClient"
import * as ExternalHttp from "@underlay/core/external/ExternalHttp"
import type * as HttpTransport from "@underlay/core/external/HttpTransport"
import * as ErrorClass from "@underlay/core/resilience/ErrorClass"
import type * as Policy from "@underlay/core/resilience/Policy"
import * as Timeout from "@underlay/core/resilience/Timeout"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as ParseResult from "effect/ParseResult"
import * as Redacted from "effect/Redacted"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Transport from "./transport.ts"

/** Headers as a service wants them; those that are redacted, and all others, show nowhere. */
export type RequestHeaders = Readonly<Record<string, string | Redacted.Redacted>>

/** What an answer that is an error says, in the words of the service. */
export interface ServiceError {
  readonly reason?: ConnectionErrorReason | undefined
  readonly code?: string | undefined
  /** It is shown: it must not repeat what was sent. */
  readonly description?: string | undefined
}

export interface Options {
  readonly kind: string
  readonly name: string
  readonly plane: Plane
  readonly connect?: ConnectMode | undefined
  /** What paths are put behind. */
  readonly baseUrl: URL | string
  /** Asked for each attempt, so that a token can be replaced while it is in use. */
  readonly headers?: Effect.Effect<RequestHeaders, ConnectionError> | undefined
  /** The limit of a call with all its attempts: 30 s. */
  readonly timeout?: Duration.DurationInput | undefined
  /** Connections at the most: 50. */
  readonly maxConnections?: number | undefined
  readonly tls?: HttpTransport.Tls | undefined
  /** How often a call that may be sent twice is sent again, on the external plane: twice. */
  readonly retries?: number | undefined
  readonly retryDelay?: Duration.DurationInput | undefined
  readonly breaker?: Policy.Options["breaker"]
  readonly slowAfter?: Duration.DurationInput | undefined
  readonly logLevels?: ExternalClient.LogLevels | undefined
  readonly connectTimeout?: Duration.DurationInput | undefined
  readonly drainTimeout?: Duration.DurationInput | undefined
  readonly healthTimeout?: Duration.DurationInput | undefined
  /** Attributes of every span. */
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  /** What the service's own codes mean. What it leaves open follows from the status. */
  readonly errorOf?:
    | ((status: number, body: unknown, headers: Readonly<Record<string, string | undefined>>) => ServiceError)
    | undefined
  /** Asks the service. What it sends is not watched: it is asked all day. */
  // biome-ignore lint/suspicious/noConfusingVoidType: a check that ends with an effect for its own sake has this type
  readonly check: (http: HttpConnection) => Effect.Effect<CheckResult | void, ConnectionError>
  /** By default a transport of its own, which is closed with the connection. */
  readonly client?: HttpClient.HttpClient | undefined
}

/** What a single request may say. */
export interface RequestOptions {
  /** Whether it may be sent twice: by default what its method says. A stream that is read once never is. */
  readonly idempotent?: boolean | undefined
  readonly timeout?: Duration.DurationInput | undefined
  readonly attributes?: Readonly<Record<string, unknown>> | undefined
  /** What spans show as the path and query of the request, where its own tell what nobody else is to know. */
  readonly shown?: string | undefined
  /** Which statuses are no errors: those from 200 to 299. */
  readonly accept?: ((status: number, headers: Readonly<Record<string, string | undefined>>) => boolean) | undefined
}

export interface HttpConnection {
  /** Its client is the connection itself. */
  readonly connection: Connection<HttpConnection>
  /** The connection with a client of the service's own. */
  readonly connectionOf: <Client>(client: Client) => Connection<Client>
  /** One call. Its answer is read whole and, with a schema, decoded; properties that are not in it are left out. */
  readonly request: {
    <A, I>(
      operation: string,
      request: HttpClientRequest.HttpClientRequest,
      options: RequestOptions & { readonly schema: Schema.Schema<A, I> }
    ): Effect.Effect<A, ConnectionError>
    (
      operation: string,
      request: HttpClientRequest.HttpClientRequest,
      options?: RequestOptions & { readonly schema?: undefined }
    ): Effect.Effect<void, ConnectionError>
  }
  /** One call whose answer is the caller's to read, as long as the scope is open: what is not read by then is given up. */
  readonly response: (
    operation: string,
    request: HttpClientRequest.HttpClientRequest,
    options?: RequestOptions
  ) => Effect.Effect<HttpClientResponse.HttpClientResponse, ConnectionError, Scope.Scope>
}

/** The scope that the body of an answer is tied to, where its reader is not the call itself. */
class BodyScope extends Context.Reference<BodyScope>()("@underlay/connections/internal/BodyScope", {
  defaultValue: (): Scope.Scope | undefined => undefined
}) {}

/** Where a request goes to that is shown as another. */
class Target extends Context.Reference<Target>()("@underlay/connections/internal/Target", {
  defaultValue: (): HttpClientRequest.HttpClientRequest | undefined => undefined
}) {}

const idempotentMethods: ReadonlySet<string> = new Set(["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"])

const isOnce = (body: unknown): boolean =>
  typeof body === "object" &&
  body !== null &&
  (body instanceof ReadableStream || ("pipe" in body && "on" in body) || "next" in body)

const mayRepeat = (request: HttpClientRequest.HttpClientRequest, said: boolean | undefined): boolean =>
  request.body._tag === "Stream" || (request.body._tag === "Raw" && isOnce(request.body.body))
    ? false
    : (said ?? (idempotentMethods.has(request.method) || "idempotency-key" in request.headers))

/** Makes one; see `ConnectionLifecycle.make` for how it connects, drains and tells of its health. */
export const make = Effect.fnUntraced(function* (
  options: Options
): Effect.fn.Return<HttpConnection, ConnectionError, Scope.Scope> {
  const { kind, name, plane } = options
  const failure = (reason: ConnectionErrorReason, method: string, description: string) =>
    new ConnectionError({ reason, kind, connection: name, method, description })
  const base = URL.canParse(options.baseUrl) ? new URL(options.baseUrl) : undefined
  if (base === undefined || (base.protocol !== "http:" && base.protocol !== "https:")) {
    return yield* failure("InvalidSettings", "make", "the address has to be like https://host/path")
  }
  if (base.username !== "" || base.password !== "") {
    return yield* failure("InvalidSettings", "make", "a user or password belongs to the settings, not into the address")
  }
  const prefix = base.href.replace(/\/$/, "")
  const max = options.maxConnections ?? 50
  const timeout = options.timeout ?? "30 seconds"

  const raw =
    options.client ??
    (yield* Transport.make(
      { kind, name },
      { connections: max, connectTimeout: options.connectTimeout ?? "5 seconds", tls: options.tls }
    ))
  // Its own span would show the whole URL, and on the internal plane there is none.
  const silent = HttpClient.withTracerDisabledWhen(raw, () => true)
  const scoped = HttpClient.withScope(silent)
  const transport = HttpClient.transform(silent, (effect, request) =>
    Effect.flatMap(BodyScope, (scope) =>
      Effect.flatMap(Target, (target) => {
        if (target === undefined) return scope === undefined ? effect : Scope.extend(scoped.execute(request), scope)
        const meant = HttpClientRequest.setUrl(request, target.url)
        const sent = scope === undefined ? silent.execute(meant) : Scope.extend(scoped.execute(meant), scope)
        // An error tells the URL of its request.
        return Effect.mapError(sent, (error) =>
          error._tag === "RequestError"
            ? new HttpClientError.RequestError({ request, reason: error.reason, cause: error.cause })
            : error
        )
      })
    )
  )

  const watched =
    plane === "internal"
      ? undefined
      : yield* ExternalHttp.make({
          service: name,
          health: false,
          policy: {
            classify: ConnectionLifecycle.classify,
            timeout,
            retry:
              options.retries === 0
                ? false
                : {
                    attempts: (options.retries ?? 2) + 1,
                    ...(options.retryDelay === undefined ? {} : { base: options.retryDelay })
                  },
            breaker: options.breaker
          },
          slowAfter: options.slowAfter,
          logLevels: options.logLevels,
          attributes: {
            "server.address": base.hostname,
            "server.port": base.port === "" ? (base.protocol === "https:" ? 443 : 80) : Number(base.port),
            ...options.attributes
          },
          spanName: (operation) => operation
        }).pipe(Effect.provideService(HttpClient.HttpClient, transport))

  let active = 0

  /** One attempt: sent with the headers of this moment, and refused by its status. */
  const attempt = (
    client: HttpClient.HttpClient,
    operation: string,
    request: HttpClientRequest.HttpClientRequest,
    accept: NonNullable<RequestOptions["accept"]>,
    shown: string | undefined
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, ConnectionError> => {
    const located = HttpClientRequest.prependUrl(request, prefix)
    const headed =
      options.headers === undefined
        ? Effect.succeed(located)
        : Effect.map(options.headers, (headers) =>
            HttpClientRequest.setHeaders(located, { ...plainHeaders(headers), ...located.headers })
          )
    return Effect.flatMap(headed, (ready) =>
      Effect.matchEffect(execute(client, ready, shown), {
        // What is no success of HTTP can be one of the caller's.
        onFailure: (error) =>
          error._tag === "ResponseError" && error.reason === "StatusCode"
            ? accept(error.response.status, error.response.headers)
              ? Effect.succeed(error.response)
              : refused(operation, error.response)
            : Effect.fail(fromTransport({ kind, name }, operation, error)),
        onSuccess: (response) =>
          accept(response.status, response.headers) ? Effect.succeed(response) : refused(operation, response)
      })
    )
  }

  const execute = (
    client: HttpClient.HttpClient,
    request: HttpClientRequest.HttpClientRequest,
    shown: string | undefined
  ) =>
    shown === undefined || watched === undefined
      ? client.execute(request)
      : Effect.provideService(
          client.execute(HttpClientRequest.setUrl(request, new URL(shown, base.origin).href)),
          Target,
          request
        )

  const refused = (
    operation: string,
    response: HttpClientResponse.HttpClientResponse
  ): Effect.Effect<never, ConnectionError> =>
    Effect.flatMap(bodyOf(response), (body) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        Effect.fail(fromStatus({ kind, name }, operation, response, body, now, options.errorOf))
      )
    )

  const counted = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.suspend(() => {
      active++
      return Effect.ensuring(
        effect,
        Effect.sync(() => {
          active--
        })
      )
    })

  const read = <A, I>(
    operation: string,
    response: HttpClientResponse.HttpClientResponse,
    schema: Schema.Schema<A, I> | undefined
  ): Effect.Effect<A | undefined, ConnectionError> =>
    Effect.matchEffect(response.text, {
      onFailure: (error) => Effect.fail(fromTransport({ kind, name }, operation, error)),
      onSuccess: (text) => {
        if (schema === undefined) return Effect.succeed(undefined)
        const parsed = parse(text)
        if (Either.isLeft(parsed)) {
          return failure("Unknown", operation, "the answer is no JSON: is this the service that was meant?")
        }
        return Effect.mapError(ParseResult.decodeUnknown(schema, { errors: "all" })(parsed.right), (issue) =>
          failure("Unknown", operation, `the answer is not what was expected: ${issuesOf(issue)}`)
        )
      }
    })

  /** One that sends by `client`, and lends it by `lend`. */
  const handle = (
    lend: <A, E>(
      operation: string,
      given: RequestOptions & { readonly idempotent: boolean },
      effect: Effect.Effect<A, E>
    ) => Effect.Effect<A, E | ConnectionError>,
    client: HttpClient.HttpClient,
    borrow: Effect.Effect<unknown, ConnectionError, Scope.Scope>
  ): HttpConnection => {
    const accepted = (status: number): boolean => status >= 200 && status < 300
    const send = <A>(
      operation: string,
      request: HttpClientRequest.HttpClientRequest,
      given: RequestOptions | undefined,
      use: (response: HttpClientResponse.HttpClientResponse) => Effect.Effect<A, ConnectionError>
    ): Effect.Effect<A, ConnectionError> =>
      lend(
        operation,
        { ...given, idempotent: mayRepeat(request, given?.idempotent) },
        counted(Effect.flatMap(attempt(client, operation, request, given?.accept ?? accepted, given?.shown), use))
      )
    function request<A, I>(
      operation: string,
      request: HttpClientRequest.HttpClientRequest,
      given: RequestOptions & { readonly schema: Schema.Schema<A, I> }
    ): Effect.Effect<A, ConnectionError>
    function request(
      operation: string,
      request: HttpClientRequest.HttpClientRequest,
      given?: RequestOptions & { readonly schema?: undefined }
    ): Effect.Effect<void, ConnectionError>
    function request<A, I>(
      operation: string,
      request: HttpClientRequest.HttpClientRequest,
      given?: RequestOptions & { readonly schema?: Schema.Schema<A, I> | undefined }
    ): Effect.Effect<A | undefined, ConnectionError> {
      return send(operation, request, given, (response) => read(operation, response, given?.schema))
    }
    const connectionOf = <Client>(client: Client): Connection<Client> => ({
      ...lifecycle.connection,
      use: (f) => lifecycle.connection.use(() => f(client))
    })
    const self: HttpConnection = {
      get connection() {
        return connectionOf(self)
      },
      connectionOf,
      request,
      response: (operation, request, given) =>
        Effect.uninterruptibleMask((restore) =>
          Effect.flatMap(Effect.scope, (scope) =>
            Effect.zipLeft(
              restore(Effect.provideService(send(operation, request, given, Effect.succeed), BodyScope, scope)),
              borrow
            )
          )
        )
    }
    return self
  }

  const limited = <A, E>(
    operation: string,
    limit: Duration.DurationInput,
    effect: Effect.Effect<A, E>
  ): Effect.Effect<A, E | ConnectionError> =>
    Effect.flatten(
      Effect.mapError(Timeout.within(Effect.either(effect), { duration: limit, service: "connection" }), () =>
        failure("Timeout", operation, `it took longer than ${Duration.format(Duration.decode(limit))}`)
      )
    )

  /** Sends without being watched. */
  const plain = handle(
    (operation, given, effect) => limited(operation, given.timeout ?? timeout, effect),
    transport,
    Effect.void
  )

  const lifecycle = yield* ConnectionLifecycle.make<HttpClient.HttpClient>({
    kind,
    name,
    plane,
    connect: options.connect,
    open: Effect.succeed(transport),
    connectTimeout: options.connectTimeout,
    drainTimeout: options.drainTimeout,
    healthTimeout: options.healthTimeout,
    check: () => options.check(plain),
    stats: () =>
      Effect.sync(() => {
        const inUse = Math.min(active, max)
        return { total: inUse, idle: 0, inUse, waiting: active - inUse }
      }),
    watcher: watched
  })

  return handle(
    (operation, given, effect) =>
      lifecycle.call(operation, () => effect, {
        idempotent: given.idempotent,
        attributes: given.attributes,
        timeout: given.timeout ?? timeout
      }),
    watched?.client ?? transport,
    lifecycle.borrow
  )
})

const plainHeaders = (headers: RequestHeaders): Record<string, string> =>
  Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name.toLowerCase(),
      Redacted.isRedacted(value) ? Redacted.value(value) : value
    ])
  )

const parse = (text: string): Either.Either<unknown, unknown> =>
  text === "" ? Either.right(undefined) : Either.try((): unknown => JSON.parse(text))

const maxErrorBody = 1_048_576

/** The body of an error, as JSON where it is that: its first mebibyte, and what of it came within two seconds. */
const bodyOf = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<unknown> =>
  Effect.suspend(() => {
    const parts: Array<Uint8Array> = []
    let size = 0
    return response.stream.pipe(
      Stream.takeUntil((part) => {
        parts.push(part.subarray(0, maxErrorBody - size))
        size = Math.min(maxErrorBody, size + part.length)
        return size === maxErrorBody
      }),
      Stream.runDrain,
      Effect.timeoutOption("2 seconds"),
      Effect.ignore,
      Effect.map(() => {
        const text = new TextDecoder().decode(Buffer.concat(parts))
        return Either.getOrElse(parse(text), () => text)
      })
    )
  })

const reasonOf = (status: number, hinted: boolean): ConnectionErrorReason => {
  switch (status) {
    case 400:
    case 405:
    case 413:
    case 414:
    case 415:
    case 422:
      return "InvalidRequest"
    case 401:
    case 407:
      return "Authentication"
    case 403:
      return "PermissionDenied"
    case 404:
    case 410:
      return "NotFound"
    case 409:
    case 412:
      return "Conflict"
    case 408:
    case 504:
      return "Timeout"
    case 429:
      return "Throttled"
    case 501:
      return "Unsupported"
    case 503:
      return hinted ? "Throttled" : "Unavailable"
    default:
      return status >= 500 ? "Unavailable" : status >= 400 ? "InvalidRequest" : "Unknown"
  }
}

const advice: Partial<Record<ConnectionErrorReason, string>> = {
  Authentication: "the credentials were refused: see that they are right and not expired",
  PermissionDenied: "the credentials do not permit this",
  NotFound: "there is no such thing",
  Conflict: "it was changed meanwhile, or is there already",
  Throttled: "the service asks for patience",
  Timeout: "the service gave up waiting",
  Unavailable: "the service cannot serve at present",
  InvalidRequest: "the service refused the request",
  Unsupported: "the service does not know this"
}

/** What a status means, in the words of the service where it has its own. */
export const fromStatus = (
  at: { readonly kind: string; readonly name: string },
  method: string,
  response: { readonly status: number; readonly headers: Readonly<Record<string, string | undefined>> },
  body: unknown,
  now: number,
  errorOf: Options["errorOf"]
): ConnectionError => {
  const { headers, status } = response
  // The forms in which a service says when to come back are known where it is known that coming back may help.
  const hint = ErrorClass.fromStatus(status === 429 || status === 503 ? status : 503, headers)
  const after =
    hint.retryAfter ?? (hint.retryAt === undefined ? undefined : Duration.millis(Math.max(0, hint.retryAt - now)))
  const own = errorOf?.(status, body, headers)
  const reason = own?.reason ?? reasonOf(status, after !== undefined)
  const waits = after !== undefined && (reason === "Throttled" || reason === "Unavailable" || reason === "Timeout")
  return new ConnectionError({
    reason,
    kind: at.kind,
    connection: at.name,
    method,
    description: own?.description ?? advice[reason] ?? "the service answered with a status that was not expected",
    code: own?.code ?? String(status),
    ...(waits ? { retryAfter: after } : {})
  })
}

const certificate = /CERT|SELF_SIGNED|UNABLE_TO_VERIFY|UNABLE_TO_GET_ISSUER|ERR_TLS/

const codeOf = (error: unknown, depth = 0): string | undefined => {
  if (typeof error !== "object" || error === null || depth > 5) return undefined
  if ("code" in error && typeof error.code === "string") return error.code
  if ("errors" in error && Array.isArray(error.errors) && error.errors.length > 0) {
    return codeOf(error.errors[0], depth + 1)
  }
  return "cause" in error ? codeOf(error.cause, depth + 1) : undefined
}

/** What became of a request that got no answer, or not all of it. */
export const fromTransport = (
  at: { readonly kind: string; readonly name: string },
  method: string,
  error: HttpClientError.HttpClientError
): ConnectionError => {
  const code = codeOf(error.cause)
  const sent = ErrorClass.classify(error).sent
  const of = (reason: ConnectionErrorReason, description: string) =>
    new ConnectionError({
      reason,
      kind: at.kind,
      connection: at.name,
      method,
      description,
      ...(code === undefined ? {} : { code }),
      ...(sent === undefined ? {} : { sent }),
      // The request would come with it, and so its headers.
      cause: error.cause
    })
  if (error._tag === "RequestError" && error.reason !== "Transport") {
    return of(
      "InvalidRequest",
      error.reason === "InvalidUrl" ? "the address of the request is none" : "the request cannot be encoded"
    )
  }
  if (error._tag === "ResponseError" && error.reason === "StatusCode") {
    return of("Unknown", "the service answered with a status that was not expected")
  }
  if (code !== undefined && certificate.test(code)) {
    return of("InvalidSettings", "the certificate of the service is not accepted: give its authority with `tls`")
  }
  if (code === "UND_ERR_CONNECT_TIMEOUT") return of("Timeout", "no connection could be made in time")
  if (code === "UND_ERR_HEADERS_TIMEOUT" || code === "UND_ERR_BODY_TIMEOUT" || code === "ETIMEDOUT") {
    return of("Timeout", "the service did not answer in time")
  }
  if (sent === false) return of("Unavailable", "the service cannot be reached: is the address right, does it run?")
  return of("Unavailable", "the connection broke off")
}

/** What did not fit and what was expected there; never what was there. */
const issuesOf = (issue: ParseResult.ParseIssue): string => {
  const found: Array<string> = []
  const walk = (issue: ParseResult.ParseIssue, path: ReadonlyArray<string>, expected: string | undefined): void => {
    const put = (words: string): void => {
      found.push(`${path.length === 0 ? "the answer" : path.join(".")}: expected ${words}`)
    }
    switch (issue._tag) {
      case "Pointer": {
        const more = Array.isArray(issue.path) ? issue.path : [issue.path]
        walk(issue.issue, [...path, ...more.map(String)], undefined)
        return
      }
      case "Composite": {
        if (issue.ast._tag === "Union") {
          put(expected ?? String(issue.ast))
          return
        }
        for (const one of Array.isArray(issue.issues) ? issue.issues : [issue.issues]) walk(one, path, undefined)
        return
      }
      case "Refinement":
      case "Transformation":
        walk(issue.issue, path, expected ?? String(issue.ast))
        return
      case "Missing":
        put(String(issue.ast.type))
        return
      case "Unexpected":
        put("nothing")
        return
      default:
        put(expected ?? String(issue.ast))
    }
  }
  walk(issue, [], undefined)
  const shown = found.slice(0, 5).map((line) => (line.length > 200 ? `${line.slice(0, 200)}…` : line))
  return shown.join("; ") + (found.length > 5 ? `; and ${found.length - 5} more` : "")
}
