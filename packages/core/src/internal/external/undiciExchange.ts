/**
 * One request and its answer, as `undici` tells of them: the handler of a dispatch, and what readers of the body ask.
 * Plain mutable state and no streams of Node: they are most of what a short answer would cost.
 */

import type { Transform } from "node:stream"

/** The part of `undici`'s `DispatchController` that is used. */
interface Controller {
  readonly abort: (reason: Error) => void
  readonly pause: () => unknown
  readonly resume: () => unknown
}

/** Headers as `undici` gives them: names in lower case. */
export type RawHeaders = Record<string, string | Array<string> | undefined>

/** What undoes the compression of a body with these headers, if there is any. */
export type DecoderOf = (headers: RawHeaders, status: number) => Transform | undefined

/**
 * How many bytes of a body are kept for a reader who is slower than the service. What is read from a socket at once is at
 * most half of it, so that a reader who keeps up does not stop the service for each of them.
 */
const highWaterMark = 131_072

/** The largest body that is given its place before it is there: a length is only what the service says. */
const maxRoom = 16_777_216

/** What a request fails with that its caller has given up. */
export const aborted = (): Error => new DOMException("The request was aborted", "AbortError")

/** One request. Every method is called by `undici` or by one reader of the body. */
export class Exchange {
  status = 0
  headers: RawHeaders = {}
  /** Where it is: no headers yet, a body that comes, all of it there, or nothing more to come. */
  phase: "sent" | "open" | "ended" | "failed" = "sent"
  failure: unknown
  /** Whether a reader has begun. There is one, of one kind, for what it took is gone. */
  taken = false

  private readonly body: unknown
  private readonly decoderOf: DecoderOf | undefined
  private controller: Controller | undefined
  private decoder: Transform | undefined
  private begun = false
  private wireEnded = false
  private chunks: Array<Uint8Array> = []
  private size = 0
  private paused = false
  private whole = false
  /** Where a body of a known length is put together as it comes, so that it is not kept twice, and how far it is there. */
  private room: Buffer | undefined
  private filled = 0
  private waiting: Promise<void> | undefined
  private wake: (() => void) | undefined

  constructor(body: unknown, decoderOf: DecoderOf | undefined) {
    this.body = body
    this.decoderOf = decoderOf
  }

  onRequestStart(controller: Controller): void {
    // Thrown, it takes the request out of the queue; an abort would close the connection, which others may use.
    if (this.phase === "failed") throw this.failure
    this.controller = controller
  }

  onResponseStart(_: Controller, status: number, headers: RawHeaders): void {
    // Of 1xx there can be any number before the answer.
    if (status < 200 || this.phase !== "sent") return
    this.status = status
    this.headers = headers
    this.phase = "open"
    this.changed()
  }

  onResponseData(controller: Controller, chunk: Uint8Array): void {
    this.controller = controller
    // At its first bytes: a body that says how it is compressed can still be empty.
    if (!this.begun) {
      this.begun = true
      const decoder = this.decoderOf?.(this.headers, this.status)
      if (decoder !== undefined) this.decode(decoder)
    }
    if (this.decoder === undefined) this.push(chunk)
    else if (!this.decoder.write(chunk)) controller.pause()
  }

  onResponseEnd(): void {
    this.wireEnded = true
    if (this.decoder === undefined) this.end()
    else this.decoder.end()
  }

  /** No request asks for another protocol: the connection is of no use. */
  onRequestUpgrade(
    _: Controller,
    __: number,
    ___: RawHeaders,
    socket: { readonly destroy: () => unknown } | undefined
  ): void {
    socket?.destroy()
    this.fail(new TypeError("the service changed the protocol"))
  }

  onResponseError(_: Controller | undefined, error: unknown): void {
    this.fail(error)
  }

  /** An `AbortSignal` listens with it. */
  handleEvent(): void {
    this.abort()
  }

  /**
   * Nobody waits for the answer any more. The connection is closed at once where the request is on one; one that is still
   * in a queue is not sent.
   */
  abort(): void {
    if (this.phase === "ended" || this.phase === "failed") return
    const reason = aborted()
    this.fail(reason)
    this.controller?.abort(reason)
  }

  /**
   * Resolves when there is something new: the headers, more of the body, its end. A promise, and not a callback, because
   * what waits for it goes on in its own asynchronous context and not in that of the connection, which has many users.
   */
  next(): Promise<void> {
    // What came since the caller looked is news, and may have been the last.
    const news = this.phase === "ended" || this.phase === "failed" || (this.available && !this.whole)
    if (news) return Promise.resolve()
    this.waiting ??= new Promise((resolve) => {
      this.wake = resolve
    })
    return this.waiting
  }

  /**
   * From now on it is kept whole, however large, and `next` resolves at its end. With `inOne` it is put together as it
   * comes, where its length is known.
   */
  keepWhole(inOne: boolean): void {
    if (this.whole) return
    this.whole = true
    if (inOne && this.phase === "open") this.makeRoom()
    this.flow()
  }

  /** What has come since the last time. */
  take(): Array<Uint8Array> {
    const { chunks } = this
    this.chunks = []
    this.size = 0
    this.flow()
    return chunks
  }

  /** All that has come, made into something; kept where that cannot be made. */
  make<A>(of: (chunks: Array<Uint8Array>, own: ArrayBuffer | undefined) => A): A {
    const { chunks, room } = this
    const made =
      room === undefined
        ? of(chunks, undefined)
        : chunks.length === 0 && this.filled === room.length
          ? of([room], room.buffer as ArrayBuffer)
          : of([room.subarray(0, this.filled), ...chunks], undefined)
    this.empty()
    return made
  }

  get available(): boolean {
    return this.size > 0
  }

  private decode(decoder: Transform): void {
    this.decoder = decoder
    decoder.on("data", (chunk: Uint8Array) => this.push(chunk))
    decoder.on("end", () => {
      this.end()
      // What comes behind the end of what was compressed is not read: nobody could end the connection any more.
      if (!this.wireEnded) this.controller?.abort(aborted())
    })
    decoder.on("error", (error: unknown) => {
      if (this.phase !== "open") return
      this.fail(error)
      this.controller?.abort(aborted())
    })
    decoder.on("drain", () => this.controller?.resume())
  }

  private push(chunk: Uint8Array): void {
    if (this.phase !== "open" || chunk.length === 0) return
    if (this.fits(chunk)) return
    this.chunks.push(chunk)
    this.size += chunk.length
    if (this.whole) return
    if (this.size >= highWaterMark && !this.paused) {
      this.paused = true
      this.source?.pause()
    }
    this.changed()
  }

  private makeRoom(): void {
    const length = Number(this.headers["content-length"])
    // What is compressed has the length of what comes, and not of what is read.
    if (!(length > this.size && length <= maxRoom) || this.decoderOf !== undefined) return
    this.room = Buffer.allocUnsafeSlow(length)
    const { chunks } = this
    this.chunks = []
    for (const chunk of chunks) if (!this.fits(chunk)) this.chunks.push(chunk)
  }

  /** Puts it behind what is there already, unless there is more than there should be. */
  private fits(chunk: Uint8Array): boolean {
    const { filled, room } = this
    if (room === undefined || this.chunks.length > 0 || filled + chunk.length > room.length) return false
    room.set(chunk, filled)
    this.filled = filled + chunk.length
    return true
  }

  private empty(): void {
    this.chunks = []
    this.size = 0
    this.room = undefined
    this.filled = 0
  }

  private flow(): void {
    if (!this.paused) return
    this.paused = false
    this.source?.resume()
  }

  private get source(): { readonly pause: () => unknown; readonly resume: () => unknown } | undefined {
    return this.decoder ?? this.controller
  }

  private end(): void {
    if (this.phase !== "open") return
    this.phase = "ended"
    this.changed()
  }

  private fail(error: unknown): void {
    if (this.phase === "ended" || this.phase === "failed") return
    this.phase = "failed"
    this.failure = error
    this.empty()
    this.decoder?.destroy()
    release(this.body)
    this.changed()
  }

  private changed(): void {
    const { wake } = this
    if (wake === undefined) return
    this.wake = undefined
    this.waiting = undefined
    wake()
  }
}

/** A body that is a stream of Node is not read any further. */
const release = (body: unknown): void => {
  if (typeof body !== "object" || body === null) return
  const { destroy, on } = body as { readonly destroy?: unknown; readonly on?: unknown }
  if (typeof destroy !== "function" || typeof on !== "function") return
  on.call(body, "error", () => {})
  destroy.call(body)
}
