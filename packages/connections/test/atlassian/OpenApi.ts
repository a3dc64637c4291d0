/**
 * Checks requests and answers against an official API description, by ajv. What the description does not have is counted,
 * so that a test can say what was not checked.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Need from "@underlay/servers/Need"
import { Ajv, type ValidateFunction } from "ajv"

type Json = Readonly<Record<string, unknown>>

const record = (value: unknown): Json => (typeof value === "object" && value !== null ? { ...value } : {})

/** OpenAPI 3.0 says `nullable` where JSON Schema has a type more. */
const withNull = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(withNull)
  if (typeof value !== "object" || value === null) return value
  const { nullable, ...rest } = Object.fromEntries(Object.entries(value).map(([key, each]) => [key, withNull(each)]))
  // Descriptions for people, which ajv would take for keywords of its own.
  for (const key of ["example", "xml", "externalDocs", "discriminator", "writeOnly", "readOnly", "deprecated"]) {
    if (key !== "example" || typeof rest["type"] === "string") delete rest[key]
  }
  if (nullable !== true) return rest
  if (typeof rest["type"] === "string" && rest["enum"] === undefined) return { ...rest, type: [rest["type"], "null"] }
  return { anyOf: [rest, { type: "null" }] }
}

interface Operation {
  readonly template: string
  readonly pattern: RegExp
  readonly operation: Json
}

export class OpenApi {
  readonly problems: Array<string> = []
  /** How many requests and answers were checked, and those that have no description. */
  checked = 0
  readonly undescribed = new Set<string>()
  private readonly ajv = new Ajv({ strict: false, validateFormats: false, allErrors: true })
  private readonly spec: Json
  private readonly prefix: string
  private readonly operations = new Map<string, Array<Operation>>()
  private readonly compiled = new Map<string, ValidateFunction>()

  /** `nullable` are properties ("User.accountId") that may be null by the words of a description, though not by its types. */
  constructor(file: string, prefix: string, nullable: ReadonlyArray<string> = []) {
    const text = Fs.readFileSync(Path.join(Need.sharedData, "openapi", file), "utf8")
    this.spec = record(withNull(JSON.parse(text)))
    this.prefix = prefix
    // One of two forms of a body is meant, and each would take the other for its own: closed, they are told apart.
    for (const [name, schema] of Object.entries(record(record(this.spec["components"])["schemas"]))) {
      if (name.endsWith("BodyWrite")) Object.assign(Object(schema), { additionalProperties: false })
    }
    for (const place of nullable) {
      const [schema = "", property = ""] = place.split(".")
      const schemas = record(record(this.spec["components"])["schemas"])
      const properties = record(schemas[schema])["properties"]
      if (typeof properties === "object" && properties !== null) {
        Object.assign(properties, { [property]: { anyOf: [record(properties)[property], { type: "null" }] } })
      }
    }
    this.ajv.addSchema({ $id: "api", components: this.spec["components"] })
    for (const [template, methods] of Object.entries(record(this.spec["paths"]))) {
      const pattern = new RegExp(`^${template.replace(/[.]/g, "\\.").replace(/\{[^}]+\}/g, "[^/]+")}$`)
      for (const [method, operation] of Object.entries(record(methods))) {
        const list = this.operations.get(method) ?? []
        list.push({ template, pattern, operation: record(operation) })
        this.operations.set(method, list)
      }
    }
  }

  private find(method: string, path: string): Operation | undefined {
    const at = path.startsWith(this.prefix) ? path.slice(this.prefix.length) : undefined
    const found = (this.operations.get(method.toLowerCase()) ?? []).filter(
      ({ pattern }) => at !== undefined && pattern.test(at)
    )
    // The one with the fewest parameters is meant.
    return found.sort((a, b) => a.template.split("{").length - b.template.split("{").length)[0]
  }

  /** What a reference at the place of a body or parameter stands for. */
  private resolved(value: unknown): Json {
    let found = record(value)
    while (typeof found["$ref"] === "string") {
      let at: unknown = this.spec
      for (const part of found["$ref"].slice(2).split("/")) at = record(at)[part]
      found = record(at)
    }
    return found
  }

  private check(what: string, schema: unknown, value: unknown): void {
    const text = JSON.stringify(schema).replaceAll("#/components", "api#/components")
    let validate = this.compiled.get(text)
    if (validate === undefined) {
      validate = this.ajv.compile(JSON.parse(text))
      this.compiled.set(text, validate)
    }
    this.checked++
    if (validate(value)) return
    for (const error of (validate.errors ?? []).slice(0, 5)) {
      this.problems.push(`${what}: ${error.instancePath} ${error.message} ${JSON.stringify(error.params)}`)
    }
  }

  request(method: string, url: URL, contentType: string | undefined, body: string): void {
    const found = this.find(method, url.pathname)
    const what = `${method} ${url.pathname}`
    if (found === undefined) {
      this.undescribed.add(`${method} ${url.pathname.replace(/\/[\d]+(?=\/|$)/g, "/…")}`)
      return
    }
    const parameters = (Array.isArray(found.operation["parameters"]) ? found.operation["parameters"] : []).map((each) =>
      this.resolved(each)
    )
    for (const [name, value] of url.searchParams) {
      const parameter = parameters.find((each) => each["in"] === "query" && each["name"] === name)
      if (parameter === undefined) {
        this.problems.push(`${what}: there is no parameter ${name}`)
        continue
      }
      const schema = this.resolved(parameter["schema"])
      const type = String(Array.isArray(schema["type"]) ? schema["type"][0] : schema["type"])
      const read =
        type === "integer" || type === "number"
          ? Number(value)
          : type === "boolean"
            ? value === "true" || (value === "false" ? false : value)
            : value
      if (type === "array") {
        const items = record(schema["items"])
        for (const each of value.split(",")) {
          this.check(`${what}: parameter ${name}`, items, items["type"] === "integer" ? Number(each) : each)
        }
      } else this.check(`${what}: parameter ${name}`, schema, read)
    }
    for (const parameter of parameters) {
      if (
        parameter["in"] === "query" &&
        parameter["required"] === true &&
        !url.searchParams.has(String(parameter["name"]))
      ) {
        this.problems.push(`${what}: the parameter ${String(parameter["name"])} is missing`)
      }
    }
    const content = record(this.resolved(found.operation["requestBody"])["content"])
    const type = (contentType ?? "").split(";")[0] ?? ""
    if (Object.keys(content).length === 0) {
      if (body !== "") this.problems.push(`${what}: it takes no body`)
      return
    }
    if (body === "") return
    if (content[type] === undefined) {
      this.problems.push(`${what}: it takes no ${type}`)
      return
    }
    if (type === "application/json") this.check(`${what}: body`, record(content[type])["schema"], JSON.parse(body))
  }

  answer(method: string, url: URL, status: number, body: string): void {
    const found = this.find(method, url.pathname)
    if (found === undefined) return
    const what = `${method} ${url.pathname}: answer ${status}`
    const response = record(found.operation["responses"])[String(status)]
    if (response === undefined) {
      // Limits and failures of the service are not in the descriptions.
      if (status < 429 && ![401, 403, 409, 410, 413].includes(status)) this.problems.push(`${what}: not described`)
      return
    }
    const schema = record(record(record(response)["content"])["application/json"])["schema"]
    if (schema === undefined || body === "" || status >= 400) return
    this.check(what, schema, JSON.parse(body))
  }
}
