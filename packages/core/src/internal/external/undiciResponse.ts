/**
 * What `undici` received, as a response of `@effect/platform`.
 */
import * as Cookies from "@effect/platform/Cookies"
import * as Headers from "@effect/platform/Headers"
import * as HttpClientError from "@effect/platform/HttpClientError"
import type * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import * as HttpClientResponse from "@effect/platform/HttpClientResponse"
import * as HttpIncomingMessage from "@effect/platform/HttpIncomingMessage"
import * as UrlParams from "@effect/platform/UrlParams"
import * as Chunk from "effect/Chunk"
import * as Effect from "effect/Effect"
import * as Inspectable from "effect/Inspectable"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type { Exchange } from "./undiciExchange.ts"

/** Resolved by the fiber that waits, so that it goes on in its own asynchronous context. */
export const changed = (exchange: Exchange): Effect.Effect<void> =>
  Effect.async((resume) => {
    void exchange.next().then(() => resume(Effect.void))
  })

/** What came of a body since the last time. Its end is a failure without an error. */
export type Pull = Effect.Effect<Chunk.Chunk<Uint8Array>, Option.Option<HttpClientError.ResponseError>>

/** A response. It knows its exchange and not the other way round: one that nobody holds is collected, and so aborted. */
export class UndiciResponse extends Inspectable.Class implements HttpClientResponse.HttpClientResponse {
  readonly [HttpIncomingMessage.TypeId]: HttpIncomingMessage.TypeId = HttpIncomingMessage.TypeId
  readonly [HttpClientResponse.TypeId]: HttpClientResponse.TypeId = HttpClientResponse.TypeId
  readonly request: HttpClientRequest.HttpClientRequest
  readonly status: number
  private readonly exchange: Exchange
  private knownHeaders: Headers.Headers | undefined
  private knownCookies: Cookies.Cookies | undefined
  private readAs: "text" | "arrayBuffer" | "formData" | undefined
  private knownText: string | undefined
  private knownBuffer: ArrayBuffer | undefined
  private knownForm: Promise<FormData> | undefined

  constructor(request: HttpClientRequest.HttpClientRequest, exchange: Exchange) {
    super()
    this.request = request
    this.exchange = exchange
    this.status = exchange.status
  }

  get headers(): Headers.Headers {
    this.knownHeaders ??= Headers.fromInput(this.exchange.headers as Headers.Input)
    return this.knownHeaders
  }

  get cookies(): Cookies.Cookies {
    const header = this.exchange.headers["set-cookie"]
    this.knownCookies ??= header === undefined ? Cookies.empty : Cookies.fromSetCookie(header)
    return this.knownCookies
  }

  get remoteAddress(): Option.Option<string> {
    return Option.none()
  }

  get stream(): Stream.Stream<Uint8Array, HttpClientError.ResponseError> {
    return Stream.suspend(() => {
      // As of a stream that has ended.
      if (this.exchange.taken) return Stream.empty
      this.exchange.taken = true
      return Stream.ensuring(
        Stream.repeatEffectChunkOption(this.pull()),
        Effect.sync(() => this.exchange.abort())
      )
    })
  }

  /** The body for one reader, who asks for what came since; with the scope it is given up. */
  get pulled(): Effect.Effect<Pull, never, Scope.Scope> {
    return Effect.uninterruptible(
      Effect.suspend((): Effect.Effect<Pull, never, Scope.Scope> => {
        if (this.exchange.taken) return Effect.succeed(Effect.fail(Option.none()))
        this.exchange.taken = true
        return Effect.as(
          Effect.addFinalizer(() => Effect.sync(() => this.exchange.abort())),
          this.pull()
        )
      })
    )
  }

  get text(): Effect.Effect<string, HttpClientError.ResponseError> {
    return Effect.suspend(() =>
      this.knownText !== undefined
        ? Effect.succeed(this.knownText)
        : this.whole("text", (bytes) => {
            this.knownText ??= textOf(bytes)
            return this.knownText
          })
    )
  }

  get json(): Effect.Effect<unknown, HttpClientError.ResponseError> {
    return Effect.flatMap(this.text, (text) =>
      Effect.try({
        try: (): unknown => (text === "" ? null : JSON.parse(text)),
        catch: (cause) => this.undecodable(cause)
      })
    )
  }

  get urlParamsBody(): Effect.Effect<UrlParams.UrlParams, HttpClientError.ResponseError> {
    return Effect.flatMap(this.text, (text) =>
      Effect.try({
        try: () => UrlParams.fromInput(new URLSearchParams(text)),
        catch: (cause) => this.undecodable(cause)
      })
    )
  }

  get arrayBuffer(): Effect.Effect<ArrayBuffer, HttpClientError.ResponseError> {
    return Effect.suspend(() =>
      this.knownBuffer !== undefined
        ? Effect.succeed(this.knownBuffer)
        : this.whole("arrayBuffer", (bytes, own) => {
            this.knownBuffer ??= own ?? bufferOf(bytes)
            return this.knownBuffer
          })
    )
  }

  get formData(): Effect.Effect<FormData, HttpClientError.ResponseError> {
    return Effect.flatMap(this.known(), () =>
      Effect.tryPromise({ try: () => this.knownForm as Promise<FormData>, catch: (cause) => this.undecodable(cause) })
    )
  }

  /** As platform's, but a body that nobody has read stays unread. */
  toJSON(): unknown {
    return {
      _id: "@effect/platform/HttpClientResponse",
      request: this.request.toJSON(),
      status: this.status,
      headers: Inspectable.redact(this.headers),
      remoteAddress: this.remoteAddress.toJSON(),
      ...(this.knownText === undefined ? {} : { body: this.knownText })
    }
  }

  private known(): Effect.Effect<void, HttpClientError.ResponseError> {
    return Effect.suspend(() =>
      this.knownForm !== undefined
        ? Effect.void
        : this.whole("formData", (bytes) => {
            const type = this.headers["content-type"]
            this.knownForm ??= new globalThis.Response(bufferOf(bytes), {
              headers: type === undefined ? {} : { "content-type": type }
            }).formData()
            // Who asks for it hears of it.
            this.knownForm.catch(() => {})
          })
    )
  }

  /** All of the body, for one kind of reader: it may ask again, no other may. */
  private whole<A>(
    as: "text" | "arrayBuffer" | "formData",
    of: (chunks: Array<Uint8Array>, own: ArrayBuffer | undefined) => A
  ): Effect.Effect<A, HttpClientError.ResponseError> {
    return Effect.suspend(() => {
      if (this.exchange.taken && this.readAs !== as) {
        return Effect.fail(this.undecodable(new TypeError("Body is unusable: Body has already been read")))
      }
      this.exchange.taken = true
      this.readAs = as
      this.exchange.keepWhole(as === "arrayBuffer")
      return this.ended(of)
    })
  }

  /** Bytes are taken and made something in one step: between two an interruption could lose them. */
  private ended<A>(
    of: (chunks: Array<Uint8Array>, own: ArrayBuffer | undefined) => A
  ): Effect.Effect<A, HttpClientError.ResponseError> {
    return Effect.suspend(() => {
      const { exchange } = this
      switch (exchange.phase) {
        case "ended":
          return Effect.try({ try: () => exchange.make(of), catch: (cause) => this.undecodable(cause) })
        case "failed":
          return Effect.fail(this.undecodable(exchange.failure))
        default:
          return Effect.flatMap(changed(exchange), () => this.ended(of))
      }
    })
  }

  private pull(): Pull {
    const { exchange } = this
    const more = changed(exchange)
    const next: Pull = Effect.suspend(() =>
      exchange.available
        ? Effect.succeed(Chunk.unsafeFromArray(exchange.take()))
        : exchange.phase === "ended"
          ? Effect.fail(Option.none())
          : exchange.phase === "failed"
            ? Effect.fail(Option.some(this.undecodable(exchange.failure)))
            : Effect.zipRight(more, next)
    )
    return next
  }

  private undecodable(cause: unknown): HttpClientError.ResponseError {
    return new HttpClientError.ResponseError({ request: this.request, response: this, reason: "Decode", cause })
  }
}

const joined = (chunks: Array<Uint8Array>): Uint8Array =>
  chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks)

/** Without the mark of the order of bytes, as everywhere on the web. */
const textOf = (chunks: Array<Uint8Array>): string => {
  const bytes = joined(chunks)
  const from = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0
  return Buffer.from(bytes.buffer, bytes.byteOffset + from, bytes.byteLength - from).toString("utf8")
}

/** A buffer of its own: that of a chunk can be shared with others. */
const bufferOf = (chunks: Array<Uint8Array>): ArrayBuffer => {
  let length = 0
  for (const chunk of chunks) length += chunk.length
  const all = new Uint8Array(length)
  let at = 0
  for (const chunk of chunks) {
    all.set(chunk, at)
    at += chunk.length
  }
  return all.buffer
}
