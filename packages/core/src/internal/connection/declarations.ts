/**
 * The connections that a configuration tells of: where their settings are, what kind they are of, what is wrong with them,
 * and the JSON Schema of it all.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as HashMap from "effect/HashMap"
import * as JSONSchema from "effect/JSONSchema"
import * as Option from "effect/Option"
import type * as AST from "effect/SchemaAST"
import type { AnyKind } from "../../connection/Connection.ts"
import * as UnknownSettings from "./unknownSettings.ts"

const root = "connections"

const nestedAt = <A>(config: Config.Config<A>, path: ReadonlyArray<string>): Config.Config<A> =>
  path.reduceRight((inner, segment) => Config.nested(inner, segment), config)

const segments = (name: string): ReadonlyArray<string> => name.split(".").filter((segment) => segment !== "")

/** The names in a table; none where there is no table. */
const namesAt = (path: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<string>> =>
  Effect.match(nestedAt(Config.hashMap(Config.succeed(true)), path), {
    onFailure: () => [],
    onSuccess: (found) => Array.from(HashMap.keys(found))
  })

const exists = (path: ReadonlyArray<string>): Effect.Effect<boolean> =>
  Effect.map(namesAt(path), (names) => names.length > 0)

const kindAt = (path: ReadonlyArray<string>): Effect.Effect<Option.Option<string>> =>
  Effect.orElseSucceed(nestedAt(Config.option(Config.nonEmptyString("kind")), path), Option.none<string>)

/** Where the settings of one connection are. */
const placeOf = (kind: string, name: string): Effect.Effect<ReadonlyArray<string>, ConfigError.ConfigError> =>
  Effect.gen(function* () {
    const own = segments(name)
    const direct = [root, ...own]
    const below = [root, kind, ...own]
    const grouped = name !== kind && own[0] !== kind && (yield* exists(below))
    if (!(yield* exists(direct))) return grouped ? below : direct
    const said = yield* kindAt(direct)
    if (Option.isNone(said) || said.value === kind) return direct
    return grouped
      ? below
      : yield* Effect.fail(
          ConfigError.InvalidData([...direct, "kind"], `expected ${kind}, for a connection of that kind was asked for`)
        )
  })

/** Reads the settings of one connection. */
export const settingsOf = (kind: AnyKind, name: string): Effect.Effect<unknown, ConfigError.ConfigError> =>
  Effect.flatMap(placeOf(kind.kind, name), (path) => nestedAt(kind.settings, path))

const both = (errors: ReadonlyArray<ConfigError.ConfigError>): Effect.Effect<void, ConfigError.ConfigError> => {
  const [first, ...rest] = errors
  return first === undefined ? Effect.void : Effect.fail(rest.reduce((a, b) => ConfigError.And(a, b), first))
}

const struct = (ast: AST.AST): AST.TypeLiteral | undefined =>
  ast._tag === "TypeLiteral"
    ? ast
    : ast._tag === "Transformation" || ast._tag === "Refinement"
      ? struct(ast.from)
      : undefined

const canonical = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, "")

/** The first words of the settings of a kind, in any spelling: an environment takes `maxConnections` apart. */
const settingNames = (kind: AnyKind): ReadonlyArray<string> | undefined => {
  const found = kind.schema === undefined ? undefined : struct(kind.schema.ast)
  return found?.propertySignatures.map((property) => canonical(String(property.name)))
}

/** Whether there is a value at exactly this path. An empty table of JSON is an empty text. */
const isValue = (path: ReadonlyArray<string>): Effect.Effect<boolean> =>
  Effect.match(nestedAt(Config.string(), path), {
    onSuccess: (text) => text !== "",
    onFailure: (error) => !ConfigError.isMissingDataOnly(error)
  })

/** What stands at a place, as deep as settings go; tables with nothing in them are nothing. */
const standsAt = (path: ReadonlyArray<string>, depth = 6): Effect.Effect<ReadonlyArray<UnknownSettings.Named>> =>
  Effect.gen(function* () {
    const found: Array<UnknownSettings.Named> = []
    for (const one of depth === 0 ? [] : yield* namesAt(path)) {
      const below = yield* standsAt([...path, one], depth - 1)
      // Of a list each element is a name.
      if (below.length > 0 || (yield* isValue([...path, one]))) found.push({ name: one.replace(/\[\d+\]$/, ""), below })
    }
    return found
  })

/** What is among the settings of a connection and is none of its kind. */
const unknownIn = (kind: AnyKind, name: string): Effect.Effect<ReadonlyArray<ConfigError.ConfigError>> =>
  Effect.gen(function* () {
    const known = kind.schema === undefined ? undefined : UnknownSettings.knownOf(kind.schema.ast)
    const path = yield* Effect.option(placeOf(kind.kind, name))
    if (known === undefined || Option.isNone(path)) return []
    const stands = yield* standsAt(path.value)
    const names = [...known.keys()].map(canonical)
    const own = stands.filter(
      ({ below, name: one }) =>
        canonical(one) !== "kind" &&
        // Tables in the one that has the name of the kind are further connections of it.
        (name !== kind.kind || below.length === 0 || names.some((setting) => setting.startsWith(canonical(one))))
    )
    return UnknownSettings.unknown(path.value, own, known)
  })

interface Found {
  readonly kind: string
  readonly name: string
}

const read = (
  kinds: ReadonlyArray<AnyKind>
): Effect.Effect<{ readonly found: ReadonlyArray<Found>; readonly errors: ReadonlyArray<ConfigError.ConfigError> }> =>
  Effect.gen(function* () {
    const registered = new Map(kinds.map((kind) => [kind.kind, kind]))
    const found: Array<Found> = []
    const errors: Array<ConfigError.ConfigError> = []
    for (const name of yield* namesAt([root])) {
      const said = yield* kindAt([root, name])
      // A provider may spell names in its own way, as one of the environment does.
      const alike = [...registered.keys()].find((kind) => canonical(kind) === canonical(name))
      if (Option.isSome(said)) {
        if (registered.has(said.value)) found.push({ kind: said.value, name })
        else {
          const known = [...registered.keys()].join(", ")
          errors.push(ConfigError.InvalidData([root, name, "kind"], `expected one of ${known}`))
        }
        continue
      }
      const kind = alike === undefined ? undefined : registered.get(alike)
      if (kind === undefined) {
        const known = [...registered.keys()].join(", ")
        errors.push(ConfigError.MissingData([root, name, "kind"], `missing, expected one of ${known}`))
        continue
      }
      const settings = settingNames(kind)
      const inner = yield* namesAt([root, name])
      const further: Array<string> = []
      for (const one of settings === undefined ? [] : inner) {
        const known = settings?.some((setting) => setting.startsWith(canonical(one))) === true
        if (!known && (yield* exists([root, name, one]))) further.push(one)
      }
      if (further.length < inner.length || inner.length === 0) found.push({ kind: kind.kind, name: kind.kind })
      for (const one of further) found.push({ kind: kind.kind, name: one })
    }
    return { found, errors }
  })

export const declared = (kinds: ReadonlyArray<AnyKind>): Effect.Effect<ReadonlyArray<Found>, ConfigError.ConfigError> =>
  Effect.flatMap(read(kinds), ({ errors, found }) => Effect.as(both(errors), found))

export const validate = (
  kinds: ReadonlyArray<AnyKind>,
  wanted: ReadonlyArray<Found> | undefined
): Effect.Effect<void, ConfigError.ConfigError> =>
  Effect.gen(function* () {
    const registered = new Map(kinds.map((kind) => [kind.kind, kind]))
    const { errors, found } = wanted === undefined ? yield* read(kinds) : { errors: [], found: wanted }
    const all = [...errors]
    for (const { kind, name } of found) {
      const known = registered.get(kind)
      if (known === undefined) {
        all.push(ConfigError.InvalidData([root, ...segments(name), "kind"], `the kind ${kind} is not registered`))
        continue
      }
      const settings = yield* Effect.either(settingsOf(known, name))
      if (Either.isLeft(settings)) all.push(settings.left)
      all.push(...(yield* unknownIn(known, name)))
    }
    return yield* both(all)
  })

export const problems = (
  error: ConfigError.ConfigError
): ReadonlyArray<{ readonly path: string; readonly message: string }> =>
  error._op === "And" || error._op === "Or"
    ? [...problems(error.left), ...problems(error.right)]
    : [{ path: error.path.join("."), message: error.message }]

type Json = Record<string, unknown>

/** The settings of a kind, with what kind they are of. */
const settingsSchema = (kind: AnyKind, definitions: Record<string, JSONSchema.JsonSchema7>, said: boolean): Json => {
  const own: Json =
    kind.schema === undefined
      ? { type: "object" }
      : {
          ...JSONSchema.fromAST(kind.schema.ast, { definitions, topLevelReferenceStrategy: "skip" })
        }
  const { properties, required, ...rest } = own
  return {
    ...rest,
    title: kind.kind,
    properties: { kind: { const: kind.kind }, ...(typeof properties === "object" ? properties : {}) },
    required: [...(said ? ["kind"] : []), ...(Array.isArray(required) ? required : [])]
  }
}

export const jsonSchema = (kinds: ReadonlyArray<AnyKind>): Json => {
  const definitions: Record<string, JSONSchema.JsonSchema7> = {}
  const registered = [...new Map(kinds.map((kind) => [kind.kind, kind])).values()]
  const named = registered.map((kind) => [kind.kind, settingsSchema(kind, definitions, false)] as const)
  const others = registered.map((kind) => settingsSchema(kind, definitions, true))
  return {
    $schema: "http://json-schema.org/draft-07/schema#",
    type: "object",
    properties: {
      [root]: {
        type: "object",
        properties: Object.fromEntries(
          named.map(([name, schema]) => [
            name,
            {
              anyOf: [
                schema,
                // Another kind's, if it says so; or further ones of this kind.
                ...others,
                { type: "object", additionalProperties: schema }
              ]
            }
          ])
        ),
        additionalProperties: others.length === 0 ? false : { anyOf: others }
      }
    },
    $defs: definitions
  }
}
