/**
 * An `HttpClient` of `@effect/platform` for Node, straight on the dispatcher of `undici`: what callers see is what
 * `NodeHttpClient.layerUndici` shows, and a request costs about half of what it does there.
 *
 * @since 0.1.0
 */
import * as Headers from "@effect/platform/Headers"
import type * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClient from "@effect/platform/HttpClient"
import * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import type * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as OnceBody from "../internal/external/onceBody.ts"
import * as Decoder from "../internal/external/undiciDecoder.ts"
import { aborted, type DecoderOf, Exchange } from "../internal/external/undiciExchange.ts"
import { UndiciPools } from "../internal/external/undiciPools.ts"
import { UndiciResponse } from "../internal/external/undiciResponse.ts"
import * as OptionalPackage from "../internal/optionalPackage.ts"

/**
 * How connections are encrypted, as `tls.connect` of Node takes it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Tls {
  /** The authorities that are trusted, as PEM, in place of those that Node knows. */
  readonly ca?: string | Uint8Array | ReadonlyArray<string | Uint8Array> | undefined
  /** The certificate of this side, as PEM. */
  readonly cert?: string | Uint8Array | undefined
  /** Its private key, as PEM. */
  readonly key?: string | Uint8Array | undefined
  readonly passphrase?: string | undefined
  /** The name that the certificate of the other side must have, where it is not that of the URL. */
  readonly servername?: string | undefined
  /** Whether a certificate that cannot be verified ends the connection. By default it does. */
  readonly rejectUnauthorized?: boolean | undefined
}

/**
 * @since 0.1.0
 * @category models
 */
export interface Settings {
  /** Connections to one origin at the most; what comes beyond waits for one. By default as many as there are requests. */
  readonly connections?: number | undefined
  /** How long a connection that nobody uses is kept, unless the service says for how long. 4 seconds by default. */
  readonly keepAlive?: Duration.DurationInput | undefined
  /** How long to wait for a connection. 10 seconds by default. */
  readonly connectTimeout?: Duration.DurationInput | undefined
  /** How long to wait for the headers. For ever by default: a model thinks as long as it thinks, and policies have limits. */
  readonly headersTimeout?: Duration.DurationInput | undefined
  /** How long to wait for the next bytes of a body. For ever by default, as for the headers. */
  readonly bodyTimeout?: Duration.DurationInput | undefined
  readonly tls?: Tls | undefined
  /**
   * Whether compressed bodies are asked for, with gzip and brotli, and undone. By default they are not: to undo it costs
   * more than a short answer does. A request with an `accept-encoding` of its own gets the bytes as they come.
   */
  readonly compression?: boolean | undefined
  /** Any other option of `undici`'s `Agent`; it goes before what is said here. */
  readonly agent?: Readonly<Record<string, unknown>> | undefined
}

/**
 * The client could not be made: `undici` is not installed, or a setting cannot work.
 *
 * @since 0.1.0
 * @category errors
 */
export class HttpTransportError extends Schema.TaggedError<HttpTransportError>("@underlay/core/HttpTransportError")(
  "HttpTransportError",
  {
    reason: Schema.Literal("MissingDriver", "InvalidOptions"),
    description: Schema.String,
    cause: Schema.optionalWith(Schema.Defect, { exact: true })
  }
) {
  /** The same again is the same. */
  get isRetryable(): boolean {
    return false
  }

  override get message(): string {
    return `${this.reason}: ${this.description}`
  }
}

/**
 * What of `undici`'s dispatchers is used: an `Agent`, a `Pool`, a `ProxyAgent`, a `MockAgent`.
 *
 * @since 0.1.0
 * @category models
 */
export interface Dispatcher {
  readonly dispatch: (options: never, handler: never) => boolean
}

/**
 * Makes a client on a dispatcher of one's own, such as a `ProxyAgent`. It stays open; its timeouts count.
 *
 * @since 0.1.0
 * @category constructors
 */
export const fromDispatcher = (dispatcher: Dispatcher): HttpClient.HttpClient => clientOf({ dispatcher })

/**
 * What has come of a body since the last time; its end is a failure without an error. Who reads large bodies so pays for
 * no stream between. It takes the body, as `stream` does, and what is not read when the scope closes is given up. For a
 * response of another client it reads that one's `stream`.
 *
 * @since 0.1.0
 * @category combinators
 */
export const pull = (
  response: HttpClientResponse.HttpClientResponse
): Effect.Effect<
  Effect.Effect<Chunk.Chunk<Uint8Array>, Option.Option<HttpClientError.ResponseError>>,
  never,
  Scope.Scope
> => {
  const own = ownOf(response)
  return own === undefined ? Stream.toPull(response.stream) : own.pulled
}

/** Platform wraps the response where no scope ends the request; what it adds, the end of the reading does as well. */
const ownOf = (response: HttpClientResponse.HttpClientResponse): UndiciResponse | undefined => {
  const inner = "original" in response ? response.original : response
  return inner instanceof UndiciResponse ? inner : undefined
}

/**
 * Makes a client with connections of its own, which are closed with the scope. Loads `undici`, and fails with
 * `HttpTransportError` where it is not installed or a setting cannot work.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (settings: Settings = {}): Effect.Effect<HttpClient.HttpClient, HttpTransportError, Scope.Scope> =>
  Effect.gen(function* () {
    const { connections } = settings
    if (connections !== undefined && !(Number.isInteger(connections) && connections > 0)) {
      return yield* invalid("connections is a whole number above 0")
    }
    const [keepAlive, connectTimeout, headersTimeout, bodyTimeout] = yield* Effect.all([
      millis("keepAlive", settings.keepAlive),
      millis("connectTimeout", settings.connectTimeout),
      millis("headersTimeout", settings.headersTimeout),
      millis("bodyTimeout", settings.bodyTimeout)
    ])
    const { Agent, Pool } = yield* undici
    const pools = new UndiciPools()
    const agent = yield* Effect.acquireRelease(
      Effect.try({
        try: () =>
          new Agent({
            factory: (origin: string | URL, options: object) => pools.keep(new Pool(origin, options)),
            ...(connections === undefined ? {} : { connections }),
            ...(keepAlive === undefined ? {} : { keepAliveTimeout: keepAlive || longest }),
            ...(connectTimeout === undefined ? {} : { connectTimeout }),
            ...(settings.tls === undefined ? {} : { connect: settings.tls as object }),
            ...settings.agent
          }),
        catch: (cause) => new HttpTransportError({ reason: "InvalidOptions", description: String(cause), cause })
      }),
      (agent) => Effect.promise(() => Promise.all([agent.destroy(), pools.destroy()]))
    )
    return clientOf({
      dispatcher: agent,
      headersTimeout: headersTimeout ?? 0,
      bodyTimeout: bodyTimeout ?? 0,
      decoderOf: settings.compression === true ? yield* Decoder.make : undefined
    })
  })

/**
 * A client with connections of its own. The limits of time are those of the policies above it: this one waits for as long
 * as a service says nothing, which a reasoning model does for minutes, unless it is given limits.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerUndici = (settings: Settings = {}): Layer.Layer<HttpClient.HttpClient, HttpTransportError> =>
  Layer.scoped(HttpClient.HttpClient, make(settings))

const undici = OptionalPackage.load(
  "undici",
  "7",
  () => import("undici"),
  (description, cause) => new HttpTransportError({ reason: "MissingDriver", description, cause })
)

const invalid = (description: string): HttpTransportError =>
  new HttpTransportError({ reason: "InvalidOptions", description })

/** The longest time that a timer of Node can wait. */
const longest = 2_147_483_647

/** Milliseconds as `undici` takes them, where 0 is no limit. */
const millis = (
  name: string,
  input: Duration.DurationInput | undefined
): Effect.Effect<number | undefined, HttpTransportError> => {
  if (input === undefined) return Effect.succeed(undefined)
  return Option.match(Duration.decodeUnknown(input), {
    onNone: () => invalid(`${name} is no duration`),
    onSome: (duration) => {
      const value = Math.ceil(Duration.toMillis(duration))
      return value > 0 ? Effect.succeed(value > longest ? 0 : value) : invalid(`${name} is longer than nothing`)
    }
  })
}

interface Sending {
  readonly dispatcher: Dispatcher
  /** In milliseconds, 0 for no limit; those of the dispatcher where there is none. */
  readonly headersTimeout?: number
  readonly bodyTimeout?: number
  /** Where it is given, compression is asked for. */
  readonly decoderOf?: DecoderOf | undefined
}

const clientOf = (sending: Sending): HttpClient.HttpClient =>
  HttpClient.make((request, url, signal) => {
    const { body } = request
    switch (body._tag) {
      case "Empty":
        return send(sending, request, url, signal, () => null)
      case "Uint8Array":
        return send(sending, request, url, signal, () => body.body)
      case "Raw": {
        const once = OnceBody.onceOf(body)
        return once !== undefined && OnceBody.isSpent(once)
          ? Effect.fail(
              new HttpClientError.RequestError({
                request,
                reason: "Encode",
                cause: new TypeError("the body is a stream that was read already: send one that can be read again")
              })
            )
          : send(sending, request, url, signal, () => body.body)
      }
      case "FormData":
        return body.formData instanceof FormData
          ? Effect.flatMap(encoded(request, body.formData), ([bytes, request]) =>
              send(sending, request, url, signal, () => bytes)
            )
          : send(sending, request, url, signal, () => body.formData)
      case "Stream":
        return Effect.flatMap(readable(body), (open) => send(sending, request, url, signal, open))
    }
  })

/** `undici` knows its own forms alone, and not those of Node; Node's `fetch` encodes them. */
const encoded = (
  request: HttpClientRequest.HttpClientRequest,
  form: FormData
): Effect.Effect<readonly [Uint8Array, HttpClientRequest.HttpClientRequest], HttpClientError.RequestError> =>
  Effect.tryPromise({
    try: async () => {
      const response = new Response(form)
      const type = response.headers.get("content-type") ?? "multipart/form-data"
      return [
        new Uint8Array(await response.arrayBuffer()),
        Headers.has(request.headers, "content-type")
          ? request
          : HttpClientRequest.setHeader(request, "content-type", type)
      ] as const
    },
    catch: (cause) => new HttpClientError.RequestError({ request, reason: "Encode", cause })
  })

/** A stream of Node, made when the request is sent: nobody would destroy one that was made before. */
const readable = (body: HttpBody.Stream): Effect.Effect<() => unknown> =>
  Effect.zipWith(
    Effect.promise(() => import("node:stream")),
    Effect.runtime<never>(),
    ({ Readable }, runtime) =>
      () => {
        const opened = Readable.fromWeb(Stream.toReadableStreamRuntime(body.stream, runtime) as never)
        // While the request waits in a queue nobody listens; undici looks at what has failed when its turn comes.
        opened.on("error", () => {})
        return opened
      }
  )

const send = (
  { bodyTimeout, decoderOf, dispatcher, headersTimeout }: Sending,
  request: HttpClientRequest.HttpClientRequest,
  url: URL,
  signal: AbortSignal,
  open: () => unknown
): Effect.Effect<HttpClientResponse.HttpClientResponse, HttpClientError.RequestError> =>
  Effect.async((resume) => {
    // An owner that is gone already sends nothing.
    if (signal.aborted) {
      resume(Effect.fail(new HttpClientError.RequestError({ request, reason: "Transport", cause: aborted() })))
      return
    }
    const body = open()
    // Who says what encodings are accepted, decodes: with a header of one's own the body is what came.
    const asks = decoderOf !== undefined && !Headers.has(request.headers, "accept-encoding")
    const exchange = new Exchange(body, asks && request.method !== "HEAD" ? decoderOf : undefined)
    void exchange
      .next()
      .then(() =>
        resume(
          exchange.phase === "failed"
            ? Effect.fail(new HttpClientError.RequestError({ request, reason: "Transport", cause: exchange.failure }))
            : Effect.succeed(new UndiciResponse(request, exchange))
        )
      )
    signal.addEventListener("abort", exchange)
    const options = {
      origin: url.origin,
      // Without the fragment, which is not for the server.
      path: url.pathname + url.search,
      method: request.method,
      headers: asks ? Headers.set(request.headers, "accept-encoding", Decoder.accepted) : request.headers,
      body,
      headersTimeout,
      bodyTimeout
    }
    try {
      dispatcher.dispatch(options as never, exchange as never)
    } catch (cause) {
      exchange.onResponseError(undefined, cause)
    }
    return Effect.sync(() => exchange.abort())
  })
