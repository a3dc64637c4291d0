/** Requests to a bucket: signed, sent, their answers lent, read and their errors understood. */
import * as HttpBody from "@effect/platform/HttpBody"
import type * as HttpClientError from "@effect/platform/HttpClientError"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import { ConnectionError } from "@underlay/core/connection/Connection"
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Sign from "../aws/sign.ts"
import * as HttpConnection from "../http/httpConnection.ts"
import * as Address from "./address.ts"
import { errorOfBody } from "./errors.ts"

export interface Sent {
  /** S3's own name of it. */
  readonly operation: string
  readonly method: "GET" | "HEAD" | "PUT" | "POST" | "DELETE"
  /** The bucket itself without one. */
  readonly key?: string | undefined
  /** Encoded already, without the question mark. */
  readonly query?: string | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: Uint8Array | Streamed | undefined
  readonly idempotent?: boolean | undefined
  readonly timeout?: Duration.DurationInput | undefined
  readonly accept?: ((status: number) => boolean) | undefined
}

/** A body that is sent as it comes; its failure ends the request. */
export interface Streamed {
  readonly stream: Stream.Stream<Uint8Array>
  readonly size: number
}

export interface Client {
  readonly at: { readonly kind: string; readonly name: string }
  /** The answer is lent: what is not read when the scope closes is given up. */
  readonly open: (sent: Sent) => Effect.Effect<HttpClientResponse.HttpClientResponse, ConnectionError, Scope.Scope>
  /** The answer's headers and text. An error within an answer of status 200 is one. */
  readonly text: (
    sent: Sent
  ) => Effect.Effect<
    { readonly headers: Readonly<Record<string, string | undefined>>; readonly text: string; readonly status: number },
    ConnectionError
  >
  /** The answer's headers alone. */
  readonly headers: (sent: Sent) => Effect.Effect<Readonly<Record<string, string | undefined>>, ConnectionError>
  readonly presign: (
    method: "GET" | "PUT",
    key: string,
    options: { readonly query: string; readonly headers: Record<string, string>; readonly seconds: number }
  ) => Effect.Effect<URL, ConnectionError>
  readonly fromTransport: (operation: string, error: HttpClientError.HttpClientError) => ConnectionError
}

export interface Options {
  readonly at: { readonly kind: string; readonly name: string }
  readonly address: Address.Address
  readonly region: string
  readonly credentials: Effect.Effect<Sign.Credentials, ConnectionError>
  /** The clock of the endpoint, in milliseconds, as its last error told it. */
  readonly clock: { serverTime: number | undefined; offset: number }
}

const bytes = "application/octet-stream"

/** A list of a thousand keys of the longest has less than a quarter of it. */
const maxAnswer = 33_554_432

/** Bodies above this are not hashed where TLS keeps them whole. */
const hashedUpTo = 1_048_576

export const make = (http: HttpConnection.HttpConnection, options: Options): Client => {
  const { address, at, clock, credentials, region } = options
  const secure = address.origin.startsWith("https:")

  const pathOf = (key: string | undefined): string =>
    key === undefined ? (address.base === "/" ? "/" : address.base.slice(0, -1)) : address.base + Address.encodeKey(key)

  const signed = (sent: Sent): Effect.Effect<HttpClientRequest.HttpClientRequest, ConnectionError> =>
    Effect.flatMap(credentials, (credentials) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const { body } = sent
        const path = pathOf(sent.key)
        const marked = sent.key !== undefined && Address.hasDots(sent.key) ? Address.mark(path) : path
        const target = sent.query === undefined ? marked : `${marked}?${sent.query}`
        const payloadHash =
          body === undefined
            ? Sign.emptyPayloadHash
            : !(body instanceof Uint8Array) || (secure && body.length > hashedUpTo)
              ? Sign.unsignedPayload
              : Sign.sha256Hex(body)
        const headers = Sign.signHeaders({
          method: sent.method,
          url: new URL(address.origin + target),
          path,
          // The type is signed wherever it is sent.
          headers: body === undefined ? (sent.headers ?? {}) : { "content-type": bytes, ...sent.headers },
          payloadHash,
          region,
          service: "s3",
          credentials,
          now: new Date(now + clock.offset)
        })
        const request = HttpClientRequest.make(sent.method)(target, { headers })
        if (body === undefined) return request
        const type = headers["content-type"] ?? bytes
        return HttpClientRequest.setBody(
          request,
          body instanceof Uint8Array ? HttpBody.uint8Array(body, type) : HttpBody.stream(body.stream, type, body.size)
        )
      })
    )

  // Keys can be personal data, and so can what they begin with.
  const shownOf = (sent: Sent): string => {
    const path = sent.key === undefined ? pathOf(undefined) : `${address.base}:key`
    return sent.query === undefined
      ? path
      : `${path}?${sent.query.replace(/(^|&)(prefix|start-after|continuation-token|delimiter)=[^&]*/g, "$1$2=REDACTED")}`
  }

  const once = (sent: Sent): Effect.Effect<HttpClientResponse.HttpClientResponse, ConnectionError, Scope.Scope> =>
    Effect.flatMap(signed(sent), (request) =>
      http.response(`S3.${sent.operation}`, request, {
        idempotent: sent.idempotent ?? sent.method !== "POST",
        shown: shownOf(sent),
        ...(sent.timeout === undefined ? {} : { timeout: sent.timeout }),
        ...(sent.accept === undefined ? {} : { accept: sent.accept })
      })
    )

  // The endpoint's time comes with its refusal. It is taken over once; a stream cannot be sent again.
  const open = (sent: Sent): Effect.Effect<HttpClientResponse.HttpClientResponse, ConnectionError, Scope.Scope> =>
    Effect.catchAll(once(sent), (error) => {
      if (error.code !== "RequestTimeTooSkewed" || clock.serverTime === undefined) return Effect.fail(error)
      const { serverTime } = clock
      return Effect.flatMap(Clock.currentTimeMillis, (now) => {
        clock.offset = serverTime - now
        return sent.body === undefined || sent.body instanceof Uint8Array ? once(sent) : Effect.fail(error)
      })
    })

  const fromTransport = (operation: string, error: HttpClientError.HttpClientError) =>
    HttpConnection.fromTransport(at, `S3.${operation}`, error)

  const tooLarge = (operation: string) =>
    new ConnectionError({
      reason: "Unknown",
      kind: at.kind,
      connection: at.name,
      method: `S3.${operation}`,
      description: "the answer is larger than any of this kind: is this the endpoint that was meant?"
    })

  const limitedText = (
    operation: string,
    response: HttpClientResponse.HttpClientResponse
  ): Effect.Effect<string, ConnectionError> => {
    const transport = (error: HttpClientError.HttpClientError) => fromTransport(operation, error)
    const length = response.headers["content-length"]
    // The transport holds an answer to the length it says.
    if (length !== undefined && Number(length) <= maxAnswer) return Effect.mapError(response.text, transport)
    return Effect.suspend(() => {
      const parts: Array<Uint8Array> = []
      let size = 0
      return response.stream.pipe(
        Stream.mapError(transport),
        Stream.runForEach((part) => {
          parts.push(part)
          size += part.length
          return size > maxAnswer ? Effect.fail(tooLarge(operation)) : Effect.void
        }),
        Effect.map(() => Buffer.concat(parts).toString("utf8"))
      )
    })
  }

  const text: Client["text"] = (sent) =>
    Effect.scoped(
      Effect.flatMap(open(sent), (response) =>
        Effect.flatMap(limitedText(sent.operation, response), (text) => {
          const error = response.status === 200 ? errorOfBody(at, `S3.${sent.operation}`, text) : undefined
          return error === undefined
            ? Effect.succeed({ headers: response.headers, text, status: response.status })
            : Effect.fail(error)
        })
      )
    )

  return {
    at,
    open,
    text,
    headers: (sent) => Effect.map(text(sent), ({ headers }) => headers),
    fromTransport,
    presign: (method, key, { headers, query, seconds }) =>
      Effect.flatMap(credentials, (credentials) =>
        Effect.map(Clock.currentTimeMillis, (now) =>
          Sign.presign(
            {
              method,
              url: new URL(`${address.origin}${pathOf(key)}${query === "" ? "" : `?${query}`}`),
              headers,
              region,
              service: "s3",
              credentials,
              now: new Date(now + clock.offset)
            },
            seconds
          )
        )
      )
  }
}
