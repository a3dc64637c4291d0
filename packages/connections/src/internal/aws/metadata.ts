/**
 * Short requests to where credentials are handed out, over connections that are closed at once. An answer is small, takes
 * no longer than its limit, and what is not 200 is a failure with its status.
 */
import * as Http from "node:http"
import * as Https from "node:https"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"

/** The request failed: `status` where something answered. */
export class MetadataError extends Data.TaggedError("MetadataError")<{
  readonly description: string
  readonly status?: number
  readonly cause?: unknown
}> {}

const maxAnswer = 1 << 20

/** Asks and gives the text of the answer. `timeout`, in milliseconds, is for all of it. */
export const request = (options: {
  readonly url: URL
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly timeout: number
}): Effect.Effect<string, MetadataError> =>
  Effect.async((resume) => {
    const fail = (description: string, cause?: unknown) =>
      resume(Effect.fail(new MetadataError({ description, ...(cause === undefined ? {} : { cause }) })))
    const { url } = options
    let sent: Http.ClientRequest
    try {
      sent = (url.protocol === "https:" ? Https : Http).request(url, {
        method: options.method ?? "GET",
        headers: { ...options.headers, ...(options.body === undefined ? {} : lengthOf(options.body)) },
        agent: false
      })
    } catch (cause) {
      fail("no such request can be made: see its address and its token", cause)
      return
    }
    const timer = setTimeout(() => {
      fail(`no answer within ${options.timeout} ms`)
      sent.destroy()
    }, options.timeout)
    sent.on("error", (cause) => {
      clearTimeout(timer)
      fail("it cannot be reached", cause)
    })
    sent.on("response", (response) => {
      const parts: Array<Buffer> = []
      let size = 0
      response.on("data", (part: Buffer) => {
        size += part.length
        if (size > maxAnswer) {
          clearTimeout(timer)
          fail("the answer is larger than a megabyte")
          sent.destroy()
          return
        }
        parts.push(part)
      })
      response.on("error", (cause) => {
        clearTimeout(timer)
        fail("the answer broke off", cause)
      })
      response.on("end", () => {
        clearTimeout(timer)
        const status = response.statusCode ?? 0
        resume(
          status === 200
            ? Effect.succeed(Buffer.concat(parts).toString("utf8"))
            : Effect.fail(new MetadataError({ description: `it answered ${status}`, status }))
        )
      })
    })
    sent.end(options.body)
    return Effect.sync(() => {
      clearTimeout(timer)
      sent.destroy()
    })
  })

const lengthOf = (body: string): Record<string, string> => ({ "content-length": String(Buffer.byteLength(body)) })
