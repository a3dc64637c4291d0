/** How the clients of Jira and Confluence say what they ask for. */
import * as HttpBody from "@effect/platform/HttpBody"
import * as HttpClientRequest from "@effect/platform/HttpClientRequest"
import type { ConnectionError } from "@underlay/core/connection/Connection"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import type * as HttpConnection from "../http/httpConnection.ts"
import { failure, type Site } from "./site.ts"

export const Text = Schema.optionalWith(Schema.String, { nullable: true, exact: true })
export const Whole = Schema.optionalWith(Schema.Number, { nullable: true, exact: true })
export const Flag = Schema.optionalWith(Schema.Boolean, { nullable: true, exact: true })
/** In one answer it is a text, in another, or behind a proxy, a number. */
export const Id = Schema.Union(
  Schema.String,
  Schema.transform(Schema.Number, Schema.String, { encode: Number, decode: String })
)

/** What a request of the user's own says of itself. */
export interface RequestOptions<A, I> {
  readonly schema: Schema.Schema<A, I>
  /** Whether it may be sent twice: with GET and HEAD by default. */
  readonly idempotent?: boolean | undefined
}

/** A read: sent again after what passes. */
export const read = { idempotent: true } as const

/** A write: never sent twice, and not done where a web page answers, such as one to log in. */
export const write = {
  idempotent: false,
  accept: (status: number, headers: Readonly<Record<string, string | undefined>>): boolean =>
    status >= 200 && status < 300 && headers["content-type"]?.includes("text/html") !== true
} as const

/** A piece of a path, which is a `isName`. */
export const segment = (text: string): string => encodeURIComponent(text)

/**
 * Whether a text can be a piece of a path. Dots alone cannot, in any encoding: an address that is read has them resolved,
 * and would be another path.
 */
export const isName = (text: string): boolean =>
  text !== "" && text !== "." && text !== ".." && !/\p{Surrogate}/u.test(text)

/** What is asked for in an address: lists with commas between, and nothing where there is nothing. */
export type Parameters = Readonly<Record<string, string | number | boolean | ReadonlyArray<string> | undefined>>

export const withQuery = (
  request: HttpClientRequest.HttpClientRequest,
  query: Parameters
): HttpClientRequest.HttpClientRequest =>
  HttpClientRequest.setUrlParams(
    request,
    Object.entries(query).flatMap(
      ([name, value]): Array<[string, string]> =>
        value === undefined ? [] : [[name, typeof value === "object" ? value.join(",") : String(value)]]
    )
  )

/** Stands where something should that JSON has no form for. */
const notJson = Symbol("notJson")

/** The request with a body of JSON. Where the value has no such form, `askOf` refuses it. */
export const withJson = (
  request: HttpClientRequest.HttpClientRequest,
  value: unknown
): HttpClientRequest.HttpClientRequest =>
  HttpClientRequest.setBody(
    request,
    Either.getOrElse(
      Either.try(() => HttpBody.unsafeJson(value)),
      () => HttpBody.raw(notJson)
    )
  )

/** Sends requests; one whose body could not be written is none. */
const askOf = ({ at, http }: Site): HttpConnection.HttpConnection["request"] => {
  function ask<A, I>(
    operation: string,
    request: HttpClientRequest.HttpClientRequest,
    options: HttpConnection.RequestOptions & { readonly schema: Schema.Schema<A, I> }
  ): Effect.Effect<A, ConnectionError>
  function ask(
    operation: string,
    request: HttpClientRequest.HttpClientRequest,
    options?: HttpConnection.RequestOptions & { readonly schema?: undefined }
  ): Effect.Effect<void, ConnectionError>
  function ask<A, I>(
    operation: string,
    request: HttpClientRequest.HttpClientRequest,
    options: HttpConnection.RequestOptions & { readonly schema?: Schema.Schema<A, I> | undefined } = {}
  ): Effect.Effect<unknown, ConnectionError> {
    const { schema, ...rest } = options
    if (request.body._tag === "Raw" && request.body.body === notJson) {
      return failure(
        at,
        "InvalidRequest",
        operation,
        "what was given has no form in JSON: it holds itself, or a bigint, or its toJSON throws"
      )
    }
    return schema === undefined
      ? http.request(operation, request, rest)
      : http.request(operation, request, { ...rest, schema })
  }
  return ask
}

export const get = (path: string, query: Parameters = {}): HttpClientRequest.HttpClientRequest =>
  withQuery(HttpClientRequest.get(path), query)

/** What both clients make their calls of. `names` says what the pieces of their paths are; all of those begin with `root`. */
export const make = (site: Site, { names, root }: { readonly names: string; readonly root: string }) => {
  const ask = askOf(site)
  const invalid = (method: string, description: string) => failure(site.at, "InvalidRequest", method, description)
  /** Nothing that is empty, or dots, goes into a path: it would be another path. */
  const named = <A, E, R>(
    operation: string,
    pieces: ReadonlyArray<string>,
    effect: () => Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | ConnectionError, R> =>
    Effect.suspend(
      (): Effect.Effect<A, E | ConnectionError, R> =>
        pieces.every(isName) ? effect() : invalid(operation, `the ${names} is empty, or none`)
    )
  const namedStream = <A>(
    operation: string,
    pieces: ReadonlyArray<string>,
    stream: () => Stream.Stream<A, ConnectionError>
  ): Stream.Stream<A, ConnectionError> => Stream.unwrap(named(operation, pieces, () => Effect.sync(stream)))
  const request = <A, I>(
    operation: string,
    asked: HttpClientRequest.HttpClientRequest,
    options: RequestOptions<A, I>
  ): Effect.Effect<A, ConnectionError> =>
    asked.url.startsWith(root)
      ? ask(operation, asked, {
          schema: options.schema,
          idempotent: options.idempotent ?? (asked.method === "GET" || asked.method === "HEAD")
        })
      : invalid(operation, `the path of a request begins with ${root}`)
  return { ask, invalid, named, namedStream, request }
}
