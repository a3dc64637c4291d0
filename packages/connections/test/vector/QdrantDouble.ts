/**
 * A double of Qdrant's HTTP API, never to be taken for Qdrant: it keeps collections and points in memory and answers as
 * Qdrant's own description (`openapi.json`), tests (`tests/openapi`) and source (1.19) say. It shares no code with what
 * is tested. Every request that it gets and every answer that it gives is validated against the description; what does
 * not fit is in `violations`.
 *
 * Where Qdrant promises no order (points with equal scores, points by id) the double gives an inconvenient one.
 */
import * as Fs from "node:fs"
import * as Http from "node:http"
import type * as Net from "node:net"
import { Ajv, type ValidateFunction } from "ajv"

type Json = null | boolean | number | string | ReadonlyArray<Json> | { readonly [key: string]: Json }
type JsonObject = { readonly [key: string]: Json }
type PointId = string | number

interface Point {
  readonly id: PointId
  readonly vector: Float32Array
  readonly payload: JsonObject
}

interface Collection {
  readonly size: number
  readonly distance: "Cosine" | "Euclid" | "Dot"
  readonly config: JsonObject
  readonly indexes: Map<string, Json>
  readonly points: Map<PointId, Point>
}

/** A request as it was seen. */
export interface Seen {
  readonly method: string
  readonly path: string
  readonly query: string
  readonly headers: Http.IncomingHttpHeaders
  readonly bytes: number
  readonly body: Json
}

/** What to do with the next requests instead of serving them. */
export interface Fault {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Json
  /** Which requests: all of them by default. */
  readonly when?: (seen: Seen) => boolean
  /** How many: one by default. */
  readonly times?: number
  /** The request is served, and then answered like this. */
  readonly served?: boolean
}

export interface QdrantDouble {
  readonly port: number
  readonly url: string
  /** What did not fit the description. */
  readonly violations: ReadonlyArray<string>
  readonly seen: Array<Seen>
  readonly collections: Map<string, Collection>
  readonly sockets: () => number
  readonly fail: (fault: Fault) => void
  readonly close: () => Promise<void>
}

class Refusal {
  readonly status: number
  readonly message: string
  constructor(status: number, message: string) {
    this.status = status
    this.message = message
  }
}

const isObject = (value: Json | undefined): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value)
const isArray = (value: Json | undefined): value is ReadonlyArray<Json> => Array.isArray(value)
const at = (value: Json | undefined, key: string): Json | undefined =>
  isObject(value) && Object.hasOwn(value, key) ? value[key] : undefined

// ---------------------------------------------------------------------------------------------------------------------
// The description
// ---------------------------------------------------------------------------------------------------------------------

/** `nullable` of OpenAPI 3.0 as JSON Schema has it; what is unique is looked at elsewhere, for it is slow for thousands. */
const fixed = (schema: unknown): unknown => {
  if (Array.isArray(schema)) return schema.map(fixed)
  if (typeof schema !== "object" || schema === null) return schema
  const { nullable, uniqueItems: _, example: _example, ...rest } = schema as Record<string, unknown>
  const copy = Object.fromEntries(Object.entries(rest).map(([key, value]) => [key, fixed(value)]))
  if (nullable !== true) return copy
  if (Object.keys(copy).length === 0) return { type: "null" }
  if (typeof copy["type"] === "string" && copy["enum"] === undefined) return { ...copy, type: [copy["type"], "null"] }
  return { anyOf: [copy, { type: "null" }] }
}

interface Description {
  readonly find: (method: string, path: string) => Operation | undefined
}

interface Operation {
  readonly template: string
  readonly queries: ReadonlySet<string>
  readonly request: ValidateFunction | undefined
  readonly response: (status: number) => ValidateFunction | undefined
}

const root = "https://qdrant.invalid/openapi.json"

const descriptions = new Map<string, Description>()

const describedBy = (file: string): Description => {
  const known = descriptions.get(file)
  if (known !== undefined) return known
  const document = JSON.parse(Fs.readFileSync(file, "utf8")) as {
    readonly paths: Record<string, Record<string, JsonObject>>
    readonly components: unknown
  }
  const ajv = new Ajv({ strict: false, validateSchema: false, logger: false })
  const integer = (least: number, most: number) => ({
    type: "number" as const,
    validate: (value: number) => Number.isInteger(value) && value >= least && value <= most
  })
  for (const format of ["uint", "uint64"]) ajv.addFormat(format, integer(0, 2 ** 64))
  ajv.addFormat("uint32", integer(0, 2 ** 32 - 1))
  ajv.addFormat("uint16", integer(0, 2 ** 16 - 1))
  ajv.addFormat("uint8", integer(0, 255))
  ajv.addFormat("int64", integer(-(2 ** 63), 2 ** 63))
  ajv.addFormat("int32", integer(-(2 ** 31), 2 ** 31))
  for (const format of ["float", "double"]) {
    ajv.addFormat(format, { type: "number", validate: (value: number) => Number.isFinite(value) })
  }
  ajv.addFormat("uuid", /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i)
  for (const format of ["date-time", "uri", "binary"]) ajv.addFormat(format, true)
  ajv.addSchema({ $id: root, components: fixed(document.components) } as object)
  const validator = (schema: unknown): ValidateFunction => ajv.compile(absolute(fixed(schema)) as object)
  const templates = Object.entries(document.paths).map(([template, methods]) => ({
    template,
    methods,
    pattern: new RegExp(`^${template.replace(/\{[^}]+\}/g, "[^/]+")}$`)
  }))
  const operations = new Map<string, Operation>()
  const description: Description = {
    find: (method, path) => {
      const candidates = templates.filter(({ pattern }) => pattern.test(path))
      // an exact path goes before one with a parameter in its last part
      const found = candidates.sort(
        (a, b) => (a.template.match(/\{/g)?.length ?? 0) - (b.template.match(/\{/g)?.length ?? 0)
      )[0]
      const operation = found?.methods[method.toLowerCase()]
      if (found === undefined || operation === undefined) return undefined
      const key = `${method} ${found.template}`
      const known = operations.get(key)
      if (known !== undefined) return known
      const content = at(at(at(operation["requestBody"], "content"), "application/json"), "schema")
      const responses = new Map<string, ValidateFunction | undefined>()
      const made: Operation = {
        template: found.template,
        queries: new Set(
          (isArray(operation["parameters"]) ? operation["parameters"] : []).flatMap((parameter) =>
            at(parameter, "in") === "query" ? [String(at(parameter, "name"))] : []
          )
        ),
        request: content === undefined ? undefined : validator(content),
        response: (status) => {
          const name = status < 400 ? String(status) : status < 500 ? "4XX" : "default"
          if (responses.has(name)) return responses.get(name)
          const schema = at(at(at(at(operation["responses"], name), "content"), "application/json"), "schema")
          const compiled = schema === undefined ? undefined : validator(schema)
          responses.set(name, compiled)
          return compiled
        }
      }
      operations.set(key, made)
      return made
    }
  }
  descriptions.set(file, description)
  return description
}

const absolute = (schema: unknown): unknown => {
  if (Array.isArray(schema)) return schema.map(absolute)
  if (typeof schema !== "object" || schema === null) return schema
  return Object.fromEntries(
    Object.entries(schema).map(([key, value]) => [
      key,
      key === "$ref" && typeof value === "string" ? `${root}${value}` : absolute(value)
    ])
  )
}

/** What the description is too loose for: what serde refuses, though a schema of alternatives lets it pass. */
const strictly = (value: Json, path: string, say: (problem: string) => void): void => {
  if (isArray(value)) {
    for (const [index, each] of value.entries()) strictly(each, `${path}/${index}`, say)
    return
  }
  if (!isObject(value)) return
  const match = at(value, "match")
  if (at(value, "key") !== undefined && isObject(match)) {
    const exact = at(match, "value")
    if (typeof exact === "number" && !Number.isSafeInteger(exact)) say(`${path}/match/value: no integer`)
    const any = at(match, "any")
    if (isArray(any)) {
      const kinds = new Set(any.map((each) => typeof each))
      if (kinds.size > 1) say(`${path}/match/any: of several types`)
      if (any.some((each) => typeof each === "number" && !Number.isSafeInteger(each)))
        say(`${path}/match/any: a fraction`)
      if (new Set(any).size !== any.length) say(`${path}/match/any: not unique`)
    }
    if (exact === undefined && any === undefined && at(match, "except") === undefined) say(`${path}/match: of nothing`)
  }
  const ids = at(value, "has_id")
  if (isArray(ids) && new Set(ids).size !== ids.length) say(`${path}/has_id: not unique`)
  const range = at(value, "range")
  if (isObject(range) && Object.keys(range).length === 0) say(`${path}/range: without an end`)
  for (const [key, each] of Object.entries(value)) if (key !== "payload") strictly(each, `${path}/${key}`, say)
}

// ---------------------------------------------------------------------------------------------------------------------
// Payloads and filters
// ---------------------------------------------------------------------------------------------------------------------

type Step = string | number | "[]"

/** A path like `a.b`, `a."b.c"`, `a[].b`, `a[0]`, as `lib/segment/src/json_path/parse.rs` reads it. */
const parsePath = (text: string): ReadonlyArray<Step> => {
  const steps: Array<Step> = []
  let rest = text
  const key = (): void => {
    const found = /^(?:"([^"\\]*)"|([\p{L}\p{N}_-]+))/u.exec(rest)
    if (found === null) throw new Refusal(400, "Format error in JSON body: Invalid json path")
    steps.push(found[1] ?? found[2] ?? "")
    rest = rest.slice(found[0].length)
  }
  key()
  while (rest !== "") {
    const index = /^\[(\d*)\]/.exec(rest)
    if (index !== null) {
      steps.push(index[1] === "" ? "[]" : Number(index[1]))
      rest = rest.slice(index[0].length)
    } else if (rest.startsWith(".")) {
      rest = rest.slice(1)
      key()
    } else {
      throw new Refusal(400, "Format error in JSON body: Invalid json path")
    }
  }
  return steps
}

const valuesAt = (payload: Json, path: string): ReadonlyArray<Json> => {
  let found: ReadonlyArray<Json> = [payload]
  for (const step of parsePath(path)) {
    found = found.flatMap((each): ReadonlyArray<Json> => {
      if (step === "[]") return isArray(each) ? each : []
      if (typeof step === "number") return isArray(each) && each[step] !== undefined ? [each[step]] : []
      const next = at(each, step)
      return next === undefined ? [] : [next]
    })
  }
  return found
}

const matches = (match: Json, value: Json): boolean => {
  const exact = at(match, "value")
  if (exact !== undefined) return value === exact
  const any = at(match, "any")
  if (isArray(any)) return any.includes(value)
  const except = at(match, "except")
  if (isArray(except)) return (typeof value === "string" || typeof value === "number") && !except.includes(value)
  throw new Refusal(400, "the double does not know this match")
}

const within = (range: JsonObject, value: Json): boolean => {
  if (typeof value !== "number") return false
  const { gt, gte, lt, lte } = range
  return (
    (typeof gt !== "number" || value > gt) &&
    (typeof gte !== "number" || value >= gte) &&
    (typeof lt !== "number" || value < lt) &&
    (typeof lte !== "number" || value <= lte)
  )
}

const isEmpty = (payload: Json, path: string): boolean =>
  valuesAt(payload, path).every((value) => value === null || (isArray(value) && value.length === 0))

const holds = (condition: Json, point: Point): boolean => {
  const key = at(condition, "key")
  if (typeof key === "string") {
    const values = valuesAt(point.payload, key).flatMap((value) => (isArray(value) ? value : [value]))
    const match = at(condition, "match")
    if (isObject(match)) return values.some((value) => matches(match, value))
    const range = at(condition, "range")
    if (isObject(range)) return values.some((value) => within(range, value))
    if (at(condition, "is_empty") === true) return isEmpty(point.payload, key)
    throw new Refusal(422, "Validation error in JSON body: [At least one field condition must be specified]")
  }
  const empty = at(condition, "is_empty")
  if (empty !== undefined) return isEmpty(point.payload, String(at(empty, "key")))
  const ids = at(condition, "has_id")
  if (isArray(ids)) return ids.some((id) => id === point.id)
  return passes(condition, point)
}

const conditions = (value: Json | undefined): ReadonlyArray<Json> =>
  value === undefined || value === null ? [] : isArray(value) ? value : [value]

const passes = (filter: Json | undefined, point: Point): boolean => {
  if (filter === undefined || filter === null) return true
  const should = conditions(at(filter, "should"))
  return (
    conditions(at(filter, "must")).every((each) => holds(each, point)) &&
    !conditions(at(filter, "must_not")).some((each) => holds(each, point)) &&
    (should.length === 0 || should.some((each) => holds(each, point)))
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// Vectors, in 32-bit floats
// ---------------------------------------------------------------------------------------------------------------------

const epsilon = 1.1920929e-7

/** `cosine_preprocess` of `lib/segment/src/spaces/simple.rs`. */
const normalised = (vector: Float32Array): Float32Array => {
  let length = 0
  for (const value of vector) length = Math.fround(length + Math.fround(value * value))
  if (length < epsilon || Math.abs(length - 1) <= 1e-6) return vector
  length = Math.fround(Math.sqrt(length))
  return vector.map((value) => value / length)
}

const scoreOf = (distance: Collection["distance"], a: Float32Array, b: Float32Array): number => {
  let sum = 0
  for (let i = 0; i < a.length; i++) {
    const x = a[i] ?? 0
    const y = b[i] ?? 0
    sum = Math.fround(sum + Math.fround(distance === "Euclid" ? (x - y) * (x - y) : x * y))
  }
  return distance === "Euclid" ? Math.fround(Math.sqrt(sum)) : sum
}

/** A 32-bit float as the server prints it: the fewest digits that tell it from its neighbours. */
const printed = (value: number): number => {
  for (let digits = 6; digits <= 9; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === value) return short
  }
  return value
}

const vectorOf = (collection: Collection, value: Json | undefined): Float32Array => {
  if (!isArray(value) || !value.every((each) => typeof each === "number")) {
    throw new Refusal(400, "Wrong input: Not existing vector name error: ")
  }
  if (value.length !== collection.size) {
    throw new Refusal(400, `Wrong input: Vector dimension error: expected dim: ${collection.size}, got ${value.length}`)
  }
  const vector = Float32Array.from(value.map(Number))
  return collection.distance === "Cosine" ? normalised(vector) : vector
}

const compareIds = (a: PointId, b: PointId): number => {
  if (typeof a === "number" && typeof b === "number") return a - b
  if (typeof a === "string" && typeof b === "string") return a < b ? -1 : a > b ? 1 : 0
  return typeof a === "number" ? -1 : 1
}

const isUuid = (id: string): boolean => /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i.test(id)

const idOf = (value: Json | undefined): PointId => {
  if (typeof value === "number" && Number.isInteger(value) && value >= 0) return value
  if (typeof value === "string" && isUuid(value)) return value.toLowerCase()
  throw new Refusal(
    400,
    `Format error in JSON body: value ${String(value)} is not a valid point ID, valid values are either an unsigned integer or a UUID`
  )
}

// ---------------------------------------------------------------------------------------------------------------------
// The server
// ---------------------------------------------------------------------------------------------------------------------

export interface Options {
  readonly apiKey?: string | undefined
  /** The largest body, in bytes: 32 MB. */
  readonly maxBody?: number | undefined
  /** The file of the description. */
  readonly openapi: string
}

/** What answers are cut down to: the properties that were asked for. */
const selected = (payload: JsonObject, selector: Json | undefined): JsonObject | undefined => {
  if (selector === false) return undefined
  const exclude = at(selector, "exclude")
  if (isArray(exclude)) {
    return Object.fromEntries(Object.entries(payload).filter(([key]) => !exclude.includes(key)))
  }
  const include = isArray(selector) ? selector : at(selector, "include")
  if (isArray(include)) {
    return Object.fromEntries(Object.entries(payload).filter(([key]) => include.includes(key)))
  }
  return payload
}

const recordOf = (point: Point, body: Json, byDefault: boolean): JsonObject => {
  const payload = selected(point.payload, at(body, "with_payload") ?? byDefault)
  return {
    id: point.id,
    ...(payload === undefined ? {} : { payload }),
    ...(at(body, "with_vector") === true ? { vector: Array.from(point.vector, printed) } : {})
  }
}

const depthOf = (text: string): number => {
  let depth = 0
  let most = 0
  let quoted = false
  for (let i = 0; i < text.length; i++) {
    const character = text[i]
    if (quoted) {
      if (character === "\\") i++
      else if (character === '"') quoted = false
    } else if (character === '"') quoted = true
    else if (character === "{" || character === "[") most = Math.max(most, ++depth)
    else if (character === "}" || character === "]") depth--
  }
  return most
}

export const make = async (options: Options): Promise<QdrantDouble> => {
  const description = describedBy(options.openapi)
  const collections = new Map<string, Collection>()
  const violations: Array<string> = []
  const seen: Array<Seen> = []
  const faults: Array<{ readonly fault: Fault; left: number }> = []
  const sockets = new Set<Net.Socket>()
  let operation = 0

  const collectionOf = (name: string): Collection => {
    const collection = collections.get(name)
    if (collection === undefined) throw new Refusal(404, `Not found: Collection \`${name}\` doesn't exist!`)
    return collection
  }
  const updated = (): JsonObject => ({ operation_id: operation++, status: "completed" })
  const matching = (collection: Collection, filter: Json | undefined): ReadonlyArray<Point> =>
    [...collection.points.values()].filter((point) => passes(filter, point))

  const routes: ReadonlyArray<
    readonly [string, RegExp, (groups: ReadonlyArray<string>, body: Json, query: URLSearchParams) => Json]
  > = [
    ["GET", /^\/collections$/, () => ({ collections: [...collections.keys()].reverse().map((name) => ({ name })) })],
    [
      "GET",
      /^\/collections\/([^/]+)$/,
      ([name = ""]) => {
        const collection = collectionOf(name)
        return {
          status: "green",
          optimizer_status: "ok",
          indexed_vectors_count: 0,
          points_count: collection.points.size,
          segments_count: 2,
          config: collection.config,
          payload_schema: Object.fromEntries(
            [...collection.indexes].map(([key, type]) => [key, { data_type: type, points: 0 }])
          )
        }
      }
    ],
    [
      "PUT",
      /^\/collections\/([^/]+)$/,
      ([name = ""], body) => {
        if (name.length > 255) throw new Refusal(422, "Validation error in path parameters: [length]")
        if (collections.has(name)) throw new Refusal(409, `Wrong input: Collection \`${name}\` already exists!`)
        const vectors = at(body, "vectors")
        const size = at(vectors, "size")
        const distance = at(vectors, "distance")
        if (typeof size !== "number" || size < 1 || size > 65_536)
          throw new Refusal(422, "Validation error in JSON body: [vectors.size]")
        if (distance !== "Cosine" && distance !== "Euclid" && distance !== "Dot") {
          throw new Refusal(400, "the double does not know this distance")
        }
        const hnsw = at(body, "hnsw_config")
        collections.set(name, {
          size,
          distance,
          indexes: new Map(),
          points: new Map(),
          config: {
            params: {
              vectors: {
                size,
                distance,
                ...(at(vectors, "on_disk") === undefined ? {} : { on_disk: at(vectors, "on_disk") ?? null })
              },
              shard_number: 1,
              replication_factor: 1,
              write_consistency_factor: 1,
              on_disk_payload: true
            },
            hnsw_config: {
              m: 16,
              ef_construct: 100,
              full_scan_threshold: 10_000,
              max_indexing_threads: 0,
              on_disk: false,
              ...(isObject(hnsw) ? Object.fromEntries(Object.entries(hnsw).filter(([, value]) => value !== null)) : {})
            },
            optimizer_config: {
              deleted_threshold: 0.2,
              vacuum_min_vector_number: 1_000,
              default_segment_number: 0,
              max_segment_size: null,
              memmap_threshold: null,
              indexing_threshold: 20_000,
              flush_interval_sec: 5,
              max_optimization_threads: null
            },
            wal_config: { wal_capacity_mb: 32, wal_segments_ahead: 0, wal_retain_closed: 1 },
            quantization_config: null,
            ...(isObject(at(body, "metadata")) ? { metadata: at(body, "metadata") ?? null } : {})
          }
        })
        return true
      }
    ],
    ["DELETE", /^\/collections\/([^/]+)$/, ([name = ""]) => collections.delete(name)],
    [
      "PUT",
      /^\/collections\/([^/]+)\/index$/,
      ([name = ""], body) => {
        const key = String(at(body, "field_name"))
        parsePath(key)
        const schema = at(body, "field_schema") ?? null
        collectionOf(name).indexes.set(key, isObject(schema) ? (at(schema, "type") ?? null) : schema)
        return updated()
      }
    ],
    [
      "PUT",
      /^\/collections\/([^/]+)\/points$/,
      ([name = ""], body) => {
        const collection = collectionOf(name)
        const given = at(body, "points")
        const points = (isArray(given) ? given : []).map((point): Point => {
          const payload = at(point, "payload")
          return {
            id: idOf(at(point, "id")),
            vector: vectorOf(collection, at(point, "vector")),
            payload: isObject(payload) ? payload : {}
          }
        })
        if (points.length === 0) throw new Refusal(400, "Bad request: Empty update request")
        for (const point of points) {
          collection.points.delete(point.id)
          collection.points.set(point.id, point)
        }
        return updated()
      }
    ],
    [
      "POST",
      /^\/collections\/([^/]+)\/points$/,
      ([name = ""], body) => {
        const { points } = collectionOf(name)
        const ids = at(body, "ids")
        return [...new Set((isArray(ids) ? ids : []).map(idOf))].reverse().flatMap((id) => {
          const point = points.get(id)
          return point === undefined ? [] : [recordOf(point, body, true)]
        })
      }
    ],
    [
      "POST",
      /^\/collections\/([^/]+)\/points\/delete$/,
      ([name = ""], body) => {
        const collection = collectionOf(name)
        const ids = at(body, "points")
        if (isArray(ids)) for (const id of ids) collection.points.delete(idOf(id))
        else for (const { id } of matching(collection, at(body, "filter"))) collection.points.delete(id)
        return updated()
      }
    ],
    [
      "POST",
      /^\/collections\/([^/]+)\/points\/count$/,
      ([name = ""], body) => {
        const count = matching(collectionOf(name), at(body, "filter")).length
        // an estimate, where it is not to be exact
        return { count: at(body, "exact") === false && count > 1 ? count - 1 : count }
      }
    ],
    [
      "POST",
      /^\/collections\/([^/]+)\/points\/scroll$/,
      ([name = ""], body) => {
        const limit = Number(at(body, "limit") ?? 10)
        const offset = at(body, "offset") ?? undefined
        const from = offset === undefined ? undefined : idOf(offset)
        const found = matching(collectionOf(name), at(body, "filter"))
          .filter(({ id }) => from === undefined || compareIds(id, from) >= 0)
          .sort((a, b) => compareIds(a.id, b.id))
        return {
          points: found.slice(0, limit).map((point) => recordOf(point, body, true)),
          next_page_offset: found[limit]?.id ?? null
        }
      }
    ],
    [
      "POST",
      /^\/collections\/([^/]+)\/points\/query$/,
      ([name = ""], body) => {
        const collection = collectionOf(name)
        const { distance } = collection
        const vector = vectorOf(collection, at(body, "query"))
        const threshold = at(body, "score_threshold")
        const nearer = distance === "Euclid" ? 1 : -1
        const found = [...matching(collection, at(body, "filter"))]
          .reverse()
          .map((point) => ({ point, score: scoreOf(distance, point.vector, vector) }))
          .filter(({ score }) => typeof threshold !== "number" || (score - Math.fround(threshold)) * nearer <= 0)
          .sort((a, b) => (a.score - b.score) * nearer)
        return {
          points: found
            .slice(0, Number(at(body, "limit") ?? 10))
            .map(({ point, score }) => ({ ...recordOf(point, body, false), version: 0, score: printed(score) }))
        }
      }
    ]
  ]

  const serve = (method: string, path: string, query: URLSearchParams, body: Json): Json => {
    for (const [verb, pattern, handle] of routes) {
      const found = verb === method ? pattern.exec(path) : null
      if (found !== null) return handle(found.slice(1).map(decodeURIComponent), body, query)
    }
    throw new Refusal(404, "")
  }

  const server = Http.createServer((request, response) => {
    const chunks: Array<Buffer> = []
    request.on("data", (chunk: Buffer) => chunks.push(chunk))
    request.on("error", () => {})
    request.on("end", () => {
      const bytes = Buffer.concat(chunks)
      const url = new URL(request.url ?? "/", "http://localhost")
      const method = request.method ?? "GET"
      const text = bytes.toString("utf8")
      const answer = (status: number, body: Json | undefined, headers: Readonly<Record<string, string>> = {}): void => {
        response.writeHead(status, {
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...headers
        })
        response.end(body === undefined ? undefined : JSON.stringify(body))
      }
      let body: Json = null
      let problem: Refusal | undefined
      try {
        if (text !== "") body = JSON.parse(text) as Json
      } catch {
        problem = new Refusal(400, "Format error in JSON body: expected value")
      }
      const one: Seen = {
        method,
        path: url.pathname,
        query: url.search,
        headers: request.headers,
        bytes: bytes.length,
        body
      }
      seen.push(one)
      const planned = faults.find(({ fault, left }) => left > 0 && (fault.when?.(one) ?? true))
      if (planned !== undefined) planned.left--
      if (planned !== undefined && planned.fault.served !== true) {
        answer(planned.fault.status, planned.fault.body, planned.fault.headers)
        return
      }
      const operation = description.find(method, url.pathname)
      const say = (what: string) => violations.push(`${method} ${url.pathname}: ${what}`)
      if (operation === undefined) say("not in the description")
      for (const name of url.searchParams.keys()) {
        if (operation?.queries.has(name) === false) say(`the parameter ${name} is not in the description`)
      }
      if (operation?.request !== undefined) {
        if (!operation.request(body)) {
          say(`request: ${JSON.stringify(operation.request.errors?.slice(0, 3))}`)
          problem ??= new Refusal(400, "Format error in JSON body: it does not fit")
        }
        strictly(body, "", (what) => {
          say(`request: ${what}`)
          problem ??= new Refusal(400, "Format error in JSON body: data did not match any variant")
        })
        if (request.headers["content-type"] !== "application/json")
          say(`content type ${request.headers["content-type"]}`)
      } else if (text !== "") say("a body where there is none")
      // serde_json's limit
      if (depthOf(text) > 127) problem ??= new Refusal(400, "Format error in JSON body: recursion limit exceeded")
      if (bytes.length > (options.maxBody ?? 33_554_432)) {
        problem = new Refusal(413, `Payload error: JSON payload (${bytes.length} bytes) is larger than allowed`)
      }
      if (options.apiKey !== undefined && request.headers["api-key"] !== options.apiKey) {
        response.writeHead(401, { "content-type": "text/plain" })
        response.end("Must provide an API key or an Authorization bearer token")
        return
      }
      let status = 200
      let result: Json
      try {
        if (problem !== undefined) throw problem
        result = { result: serve(method, url.pathname, url.searchParams, body), status: "ok", time: 0.001, usage: null }
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        status = error.status
        result = { status: { error: error.message }, time: 0.001 }
      }
      const check = operation?.response(status)
      if (check === undefined) say(`there is no answer ${status}`)
      else if (!check(result)) say(`answer: ${JSON.stringify(check.errors?.slice(0, 3))}`)
      if (planned === undefined) answer(status, result)
      else answer(planned.fault.status, planned.fault.body, planned.fault.headers)
    })
  })
  server.on("connection", (socket) => {
    sockets.add(socket)
    socket.on("error", () => {})
    socket.once("close", () => sockets.delete(socket))
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()))
  const address = server.address()
  const port = typeof address === "object" && address !== null ? address.port : 0
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    violations,
    seen,
    collections,
    sockets: () => sockets.size,
    fail: (fault) => {
      faults.push({ fault, left: fault.times ?? 1 })
    },
    close: () =>
      new Promise((resolve) => {
        for (const socket of sockets) socket.destroy()
        server.close(() => resolve())
      })
  }
}
