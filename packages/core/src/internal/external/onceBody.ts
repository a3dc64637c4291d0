/**
 * Bodies of requests that can be read once.
 */
import type * as HttpBody from "@effect/platform/HttpBody"

/** What can be read once: a stream of Node or of the web, a generator. */
const isOnce = (body: unknown): body is object => {
  if (typeof body !== "object" || body === null) return false
  if (body instanceof ReadableStream) return true
  if ("pipe" in body && "on" in body) return true
  return "next" in body && typeof body.next === "function"
}

/** The stream or generator that is the body, if it is one. A `Stream` of Effect is made anew for each request. */
export const onceOf = (body: HttpBody.HttpBody): object | undefined =>
  body._tag === "Raw" && isOnce(body.body) ? body.body : undefined

const given = new WeakSet<object>()

/** Whether it was given to a request before. Sent again it would be empty, and the service would take that for all of it. */
export const isSpent = (body: object): boolean => {
  if (given.has(body)) return true
  given.add(body)
  return false
}
