/**
 * The caches of an application by name: declared in code, each with its schema, and made on demand with the settings that
 * configuration (`application-cache.yaml`) has for its name. What they are kept in is a kind, of an open registry.
 *
 * @since 0.1.0
 */
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberId from "effect/FiberId"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import type * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as CacheHandles from "../internal/cache/handle.ts"
import * as MemoryBackend from "../internal/cache/memory.ts"
import * as Fields from "../internal/caches/fields.ts"
import type {
  AnyKind,
  CacheInfo,
  CacheStats,
  Handle,
  Kind,
  KindSettings,
  Reason,
  Stores
} from "../internal/caches/model.ts"
import { CachesError } from "../internal/caches/model.ts"
import * as TypedKeys from "../internal/caches/typedKeys.ts"
import { withoutCallReferences } from "../internal/callReferences.ts"
import { canonical } from "../internal/settings/settingsEnvironment.ts"
import type * as Cache from "./Cache.ts"
import * as ConfirmationCache from "./ConfirmationCache.ts"
import * as OneTimeStore from "./OneTimeStore.ts"
import * as SignupCache from "./SignupCache.ts"

export * from "../internal/caches/model.ts"

/**
 * What a cache is: its name, and how it is made of what configuration and its kind give. `define`, `confirmation` and
 * `signup` make them; keep one for each name and share it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Definition<out H> {
  readonly name: string
  /** How it is made: for the registry. */
  readonly recipe: Recipe<H>
}

/**
 * How the registry makes what a definition declares.
 *
 * @since 0.1.0
 * @category models
 */
export interface Recipe<out H> {
  readonly fields: Fields.Fields
  /** What it is called in problems. */
  readonly what: string
  readonly kind: string | undefined
  /** Whether the settings of all caches hold for it beside the kind and the prefix. */
  readonly isCache: boolean
  readonly make: (given: Given) => Effect.Effect<Made<H>, CachesError, Scope.Scope>
}

/**
 * What a recipe is given: what configuration says of the name (`found`) and of all caches (`defaults`), and the stores of
 * the kind.
 *
 * @since 0.1.0
 * @category models
 */
export interface Given {
  readonly name: string
  readonly prefix: string | undefined
  readonly stores: Stores
  readonly kind: string
  readonly found: object
  readonly defaults: object
}

/**
 * What a recipe makes.
 *
 * @since 0.1.0
 * @category models
 */
export interface Made<out H> {
  readonly handle: H
  readonly namespace: string
  /** Of caches: codes and sign-ups have none. */
  readonly counters?:
    | { readonly stats: Effect.Effect<Cache.Stats>; readonly clear: Effect.Effect<number, CachesError> }
    | undefined
}

/**
 * The caches of an application.
 *
 * - `get` gives the cache of a definition and makes it if nobody has asked for it yet, once, however many ask at the same
 *   time. It lives as long as the registry. A build that fails is forgotten: those who wait for it get the error, and the
 *   next one builds again. A cache is built with the registry's own references, never the caller's.
 * - `list` and `stats` tell of the caches that have been made; codes and sign-ups have no counters.
 * - `clear` deletes what a cache holds, and says how many that were (see `Cache`). It fails with `NotFound` if nobody has
 *   asked for a cache of this name yet, with `Unavailable` if its store could not be reached and with `Rejected` if that
 *   refused, whether or not the cache is strict.
 * - `clearAll` clears every cache that has been made; codes and sign-ups stay.
 * - `unused` are the names in configuration that nobody has asked for: worth a look once an application is up.
 *
 * @since 0.1.0
 * @category tags
 */
export class Caches extends Context.Tag("@underlay/core/Caches")<
  Caches,
  {
    readonly get: <H>(definition: Definition<H>) => Effect.Effect<H, CachesError>
    readonly list: Effect.Effect<ReadonlyArray<CacheInfo>>
    readonly stats: Effect.Effect<ReadonlyArray<CacheStats>>
    readonly clear: (name: string) => Effect.Effect<number, CachesError>
    readonly clearAll: Effect.Effect<number, CachesError>
    readonly unused: Effect.Effect<ReadonlyArray<string>, CachesError>
    readonly kinds: ReadonlyArray<string>
  }
>() {}

/**
 * Gives the cache of a definition: `Caches.get(Users)`.
 *
 * @since 0.1.0
 * @category accessors
 */
export const get = <H>(definition: Definition<H>): Effect.Effect<H, CachesError, Caches> =>
  Effect.flatMap(Caches, (caches) => caches.get(definition))

// ---------------------------------------------------------------------------------------------------------------------
// definitions
// ---------------------------------------------------------------------------------------------------------------------

/**
 * What a cache is, as its code says it. All but the name, the schemas and `strict` are defaults, which configuration can
 * replace one by one.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<A, I, K = string> extends Omit<Cache.Options<A, I>, "namespace"> {
  /** Its name in configuration. Letters, digits, `.`, `_` and `-`. */
  readonly name: string
  /** The keys. Default: texts as they are. */
  readonly key?: Schema.Schema<K, string> | undefined
  /** What its keys are kept under. Default: its name. */
  readonly namespace?: string | undefined
  /** What it is kept in. Default: `memory`. */
  readonly kind?: string | undefined
}

/**
 * Declares a cache.
 *
 * ```ts
 * const Users = Caches.define({ name: "users", key: UserId, schema: User, ttl: "5 minutes" })
 * const user = yield* (yield* Caches.get(Users)).getOrElse(id, loadUser(id))
 * ```
 * ```yaml
 * caches:
 *   defaults:
 *     kind: redis
 *   users:
 *     ttl: 10 minutes
 *     firstTier:
 *       capacity: 5000
 * ```
 *
 * A setting is what configuration says at `caches.<name>`, else what the code says, else what configuration says at
 * `caches.defaults`, else the default of `Cache`. The settings are those of `Cache.Options` that are data, by the same
 * names, and `kind` and `prefix` (which stands before the namespace, to tell deployments apart that share a store).
 * `firstTier` and `lease` are switched off by `enabled: false`, a duration that may be absent and `compressAbove` by
 * `none`. `strict` is the code's alone, since it is in the type.
 *
 * @since 0.1.0
 * @category constructors
 */
export const define: {
  <A, I, K = string>(options: Options<A, I, K> & { readonly strict: true }): Definition<Handle<K, A, Cache.CacheError>>
  <A, I, K = string>(options: Options<A, I, K> & { readonly strict?: false | undefined }): Definition<Handle<K, A>>
} = <A, I, K>(options: Options<A, I, K>): Definition<Handle<K, A>> => {
  const { key, kind, name, namespace = name, schema, strict, ...code } = options
  return {
    name,
    recipe: {
      fields: Fields.cache,
      what: "a cache",
      kind,
      isCache: true,
      make: ({ defaults, found, prefix, stores }) =>
        Effect.gen(function* () {
          const { lease, ...settled } = settle<Omit<Cache.Options<A, I>, "namespace" | "schema" | "strict">>(
            found,
            code,
            defaults
          )
          const full = `${prefix ?? ""}${namespace}`
          const { clear, handle: cache } = yield* Effect.mapError(
            CacheHandles.makeWithClear(stores.cache, {
              ...settled,
              // no waiting is none of time
              lease: lease && (lease.wait as unknown) === false ? { ...lease, wait: 0 } : lease,
              namespace: full,
              schema,
              strict
            }),
            (error) =>
              failed(
                error.reason === "InvalidOptions" ? "InvalidOptions" : "Unavailable",
                name,
                error.description,
                error
              )
          )
          return {
            // keys are texts where there is no schema of them
            handle: key === undefined ? (cache as unknown as Handle<K, A>) : TypedKeys.make(name, key, cache),
            namespace: full,
            counters: {
              stats: cache.stats,
              clear: Effect.mapError(clear, (error) =>
                failed(
                  error.isRetryable ? "Unavailable" : "Rejected",
                  name,
                  `it may not be cleared: ${error.description}`,
                  error
                )
              )
            }
          }
        })
    }
  }
}

/** One setting over the other: the name's, the code's, those of all. What is switched off is absent then. */
const settle = <A extends object>(found: object, code: A, defaults: object): A => {
  const settled = Fields.allOver<object>(found, Fields.allOver<object>(code, defaults))
  return Object.fromEntries(
    Object.entries(settled).map(([name, value]) => [name, value === false && name in switchable ? undefined : value])
  ) as A
}

/** Those that are false where configuration switches them off, and that have no such value in code. */
const switchable: Readonly<Record<string, true>> = {
  staleFor: true,
  graceFor: true,
  graceBackoff: true,
  firstTier: true,
  compressAbove: true
}

/**
 * Declares confirmation codes, with the settings of `ConfirmationCache` by the same names at `caches.<name>`, over those
 * of the code; of `caches.defaults` `kind` and `prefix` hold. The default name is `confirmation`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const confirmation: {
  <A, I>(
    options: ConfirmationCache.ValueOptions<A, I> & KindOption
  ): Definition<ConfirmationCache.ConfirmationHandle<A>>
  (
    options?: ConfirmationCache.Options & KindOption & { readonly schema?: undefined }
  ): Definition<ConfirmationCache.ConfirmationHandle<void>>
} = <A, I>(
  options: ConfirmationCache.Options & KindOption & { readonly schema?: Schema.Schema<A, I> | undefined } = {}
) => {
  const { kind, name = "confirmation", prefix, schema, ...code } = options
  return oneTime(name, kind, prefix, "confirmation codes", Fields.confirmation, (store, full, found) => {
    const { quota, resendAfter, ...rest } = settle<ConfirmationCache.Options>(found, code, {})
    return ConfirmationCache.makeOn(store, {
      ...rest,
      // configuration says how many or how long and leaves the other as it is
      quota:
        quota === undefined || quota === false
          ? quota
          : { codes: 5, within: "1 hour", ...(quota as Partial<Exclude<typeof quota, false>>) },
      resendAfter: (resendAfter as Duration.DurationInput | false | undefined) === false ? 0 : resendAfter,
      name: full,
      schema: ConfirmationCache.schemaOf(schema)
    })
  })
}

/**
 * What code can say of the kind of codes and sign-ups.
 *
 * @since 0.1.0
 * @category models
 */
export interface KindOption {
  /** What they are kept in. Default: `memory`. */
  readonly kind?: string | undefined
}

/**
 * Declares sign-ups, with the settings of `SignupCache` by the same names at `caches.<name>`, over those of the code; of
 * `caches.defaults` `kind` and `prefix` hold. The default name is `signup`.
 *
 * @since 0.1.0
 * @category constructors
 */
export const signup = <A, I>(
  options: SignupCache.Options<A, I> & KindOption
): Definition<SignupCache.SignupHandle<A>> => {
  const { kind, name = "signup", prefix, schema, ...code } = options
  return oneTime(name, kind, prefix, "sign-ups", Fields.signup, (store, full, found) =>
    SignupCache.makeOn(store, { ...settle<SignupCache.Settings>(found, code, {}), name: full, schema })
  )
}

/** What is kept in the one-time store of a kind. */
const oneTime = <H>(
  name: string,
  kind: string | undefined,
  prefix: string | undefined,
  what: string,
  fields: Fields.Fields,
  make: (store: OneTimeStore.Service, full: string, found: object) => Effect.Effect<H, OneTimeStore.OneTimeStoreError>
): Definition<H> => ({
  name,
  recipe: {
    fields,
    what,
    kind,
    isCache: false,
    make: (given) =>
      Effect.gen(function* () {
        const { oneTime } = given.stores
        if (oneTime === undefined) {
          return yield* failed("Unsupported", name, `the kind ${given.kind} keeps no ${what}: choose another`)
        }
        const namespace = `${given.prefix ?? prefix ?? ""}${name}`
        const handle = yield* Effect.mapError(make(oneTime, namespace, given.found), (error) =>
          failed("InvalidOptions", name, error.description, error)
        )
        return { handle, namespace }
      })
  }
})

/**
 * A class that is at once the tag of a definition's cache and has its layer.
 *
 * ```ts
 * class Users extends Caches.tag("app/Users", Caches.define({ name: "users", schema: User }))<Users>() {}
 * const program = Effect.flatMap(Users, (users) => users.get("42")).pipe(Effect.provide(Users.layer))
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string, H>(id: Id, definition: Definition<H>) =>
  <Self>(): DefinitionTag<Self, Id, H> => {
    const base = Context.Tag(id)<Self, H>()
    // a getter, so that the layer is of the class that extends this one
    const descriptor: PropertyDescriptor & ThisType<Context.Tag<Self, H>> = {
      get() {
        return Layer.effect(this, get(definition))
      }
    }
    Reflect.defineProperty(base, "layer", descriptor)
    return base as DefinitionTag<Self, Id, H>
  }

/**
 * The class that `tag` gives.
 *
 * @since 0.1.0
 * @category models
 */
export interface DefinitionTag<Self, Id extends string, H> extends Context.TagClass<Self, Id, H> {
  readonly layer: Layer.Layer<Self, CachesError, Caches>
}

// ---------------------------------------------------------------------------------------------------------------------
// kinds
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Describes a kind, so that `Caches.layer` can be given it.
 *
 * @since 0.1.0
 * @category constructors
 */
export const kind = <S extends KindSettings = Record<never, never>, R = never>(options: Kind<S, R>): Kind<S, R> =>
  options

/**
 * The kind `memory`: each cache in the memory of this process, `capacity` entries at the most (10,000).
 *
 * @since 0.1.0
 * @category constructors
 */
export const memory: Kind<{ readonly capacity: Config.Config<number> }> = kind({
  kind: "memory",
  settings: {
    capacity: Config.integer("capacity").pipe(
      Config.validate({ message: "expected a whole number, one or more", validation: (capacity) => capacity >= 1 }),
      Config.withDefault(10_000)
    )
  },
  make: (_, { capacity }) =>
    Effect.map(
      MemoryBackend.make(capacity),
      (cache): Stores => ({ cache, oneTime: OneTimeStore.makeMemory({ capacity }) })
    )
})

// ---------------------------------------------------------------------------------------------------------------------
// the registry
// ---------------------------------------------------------------------------------------------------------------------

interface Entry {
  readonly definition: Definition<unknown>
  readonly scope: Scope.CloseableScope
  readonly built: Deferred.Deferred<Built, CachesError>
  made: Built | undefined
}

interface Built extends Made<unknown> {
  readonly kind: string
}

/**
 * What the makers of kinds need, save the scope that each is given.
 *
 * @since 0.1.0
 * @category models
 */
export type Requirements<K extends AnyKind> = K extends AnyKind<infer R> ? Exclude<R, Scope.Scope> : never

/**
 * Makes a registry of `kinds`, to which `memory` belongs in any case. Of two kinds of one name the later wins, so a test
 * replaces one by adding its own.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = <K extends AnyKind = never>(
  kinds: ReadonlyArray<K> = []
): Effect.Effect<typeof Caches.Service, never, Requirements<K> | Scope.Scope> => registry(kinds, true)

const registry = <K extends AnyKind>(
  kinds: ReadonlyArray<K>,
  configured: boolean
): Effect.Effect<typeof Caches.Service, never, Requirements<K> | Scope.Scope> =>
  Effect.gen(function* () {
    const registered = new Map<string, AnyKind<Requirements<K> | Scope.Scope>>(
      [memory, ...(kinds as ReadonlyArray<AnyKind<Requirements<K> | Scope.Scope>>)].map((one) => [one.kind, one])
    )
    const entries = new Map<string, Entry>()
    const provider = yield* Effect.configProviderWith(Effect.succeed)
    let closed = false

    yield* Effect.addFinalizer((exit) =>
      Effect.suspend(() =>
        Effect.forEach([...entries.values()], (entry) => Scope.close(entry.scope, exit), {
          concurrency: "unbounded",
          discard: true
        })
      )
    )
    // Builds run with the references of the registry, and outlive who asked first. Released before the entries are.
    const run = yield* FiberSet.makeRuntime<Requirements<K>, void, never>()
    yield* Effect.addFinalizer(() =>
      Effect.sync(() => {
        closed = true
        for (const { built, definition } of entries.values()) {
          Deferred.unsafeDone(built, failed("Closed", definition.name, "the registry is released"))
        }
      })
    )

    /** The kind of a cache, and every setting of it; or all that is wrong with them. */
    const settingsOf = (definition: Definition<unknown>) =>
      Effect.gen(function* () {
        const { name, recipe } = definition
        if (!configured) {
          // whatever the code wants to be kept in: this is for tests
          return { chosen: memory as AnyKind<Requirements<K> | Scope.Scope>, own: { capacity: 10_000 }, ...nothing }
        }
        const path = [root, name]
        const problems: Array<string> = []
        const gather = <A>(effect: Effect.Effect<A, ReadonlyArray<string>>) =>
          Effect.catchAll(effect, (found): Effect.Effect<undefined> => {
            problems.push(...found)
            return Effect.succeed(undefined)
          })
        const common = yield* gather(Fields.read(path, Fields.common))
        const shared = yield* gather(Fields.read([root, defaults], Fields.common))
        const found = (yield* gather(Fields.read(path, recipe.fields))) ?? {}
        const ofAll = recipe.isCache ? yield* gather(Fields.read([root, defaults], Fields.cache)) : undefined
        problems.push(
          ...(yield* Fields.unknown([root, defaults], Fields.namesOf(Fields.common, Fields.cache), "all caches"))
        )

        const wanted = common?.kind ?? recipe.kind ?? shared?.kind ?? memory.kind
        const chosen = registered.get(wanted)
        if (chosen === undefined) {
          const kinds = [...registered.keys()].join(", ")
          const advice = `there is no such kind: there are ${kinds}; another is added to the list given to Caches.layer`
          if (common?.kind !== undefined) problems.push(...(yield* Fields.problemAt(path, "kind", advice)))
          else if (recipe.kind !== undefined) problems.push(`the code says kind "${wanted}": ${advice}`)
          else problems.push(...(yield* Fields.problemAt([root, defaults], "kind", advice)))
          return yield* new CachesError({
            reason: "UnknownKind",
            cache: name,
            description: "it is to be of a kind that there is not",
            problems
          })
        }
        const settings = chosen.settings ?? {}
        const own = (yield* gather(Fields.readAll(path, settings))) ?? {}
        problems.push(
          ...(yield* Fields.unknown(
            path,
            Fields.namesOf(Fields.common, recipe.fields, settings),
            `${recipe.what} of kind ${wanted}`
          ))
        )
        if (problems.length > 0) {
          return yield* new CachesError({
            reason: "InvalidSettings",
            cache: name,
            description: `${problems.length === 1 ? "a setting" : "settings"} of it cannot be`,
            problems
          })
        }
        return { chosen, own, found, ofAll: ofAll ?? {}, prefix: common?.prefix ?? shared?.prefix }
      })

    const build = (definition: Definition<unknown>) =>
      Effect.gen(function* () {
        const { name, recipe } = definition
        if (!namePattern.test(name) || name === defaults) {
          return yield* failed(
            "InvalidOptions",
            name,
            `a name is one to 128 letters, digits, dots, underscores and hyphens, and not "${defaults}"`
          )
        }
        const { chosen, found, ofAll, own, prefix } = yield* settingsOf(definition)
        const stores = yield* chosen.make(name, own as never)
        const made = yield* recipe.make({ name, prefix, stores, kind: chosen.kind, found, defaults: ofAll })
        return { ...made, kind: chosen.kind }
      })

    const start = (definition: Definition<unknown>): Effect.Effect<Entry> =>
      Effect.map(Scope.make(), (scope) => {
        const entry: Entry = { definition, scope, built: Deferred.unsafeMake(FiberId.none), made: undefined }
        entries.set(definition.name, entry)
        run(
          build(definition).pipe(
            Scope.extend(scope),
            Effect.mapInputContext(
              (context: Context.Context<Requirements<K>>) =>
                withoutCallReferences(context as Context.Context<never>) as Context.Context<Requirements<K>>
            ),
            Effect.onExit((exit) => {
              if (Exit.isSuccess(exit)) {
                entry.made = exit.value
                return Deferred.done(entry.built, exit)
              }
              // it leaves the registry before its callers hear of the failure: who comes after them builds anew
              entries.delete(definition.name)
              return Effect.ensuring(Scope.close(scope, exit), Deferred.done(entry.built, exit))
            }),
            Effect.exit,
            Effect.asVoid
          )
        )
        return entry
      })

    const get = <H>(definition: Definition<H>): Effect.Effect<H, CachesError> =>
      Effect.suspend(() => {
        const { name } = definition
        if (closed) return failed("Closed", name, "the registry is released")
        const entry = entries.get(name)
        if (entry !== undefined && entry.definition !== definition) {
          return failed("Conflict", name, "another definition has this name: define it once and share that")
        }
        // the definition made it, and says what it is
        if (entry?.made !== undefined) return Effect.succeed(entry.made.handle as H)
        return Effect.map(
          Effect.flatMap(entry === undefined ? start(definition) : Effect.succeed(entry), ({ built }) =>
            Deferred.await(built)
          ),
          (made) => made.handle as H
        )
      })

    const all = (): ReadonlyArray<Built & { readonly name: string }> =>
      [...entries.values()].flatMap(({ definition, made }) =>
        made === undefined ? [] : [{ ...made, name: definition.name }]
      )

    return Caches.of({
      get,
      kinds: [...registered.keys()],
      list: Effect.sync(() => all().map(({ kind, name, namespace }) => ({ name, kind, namespace }))),
      stats: Effect.suspend(() =>
        Effect.forEach(
          all().flatMap((one) => (one.counters === undefined ? [] : [{ ...one, ...one.counters }])),
          ({ kind, name, namespace, stats }) => Effect.map(stats, (stats) => ({ name, kind, namespace, stats }))
        )
      ),
      clear: (name) =>
        Effect.suspend(() => {
          const one = all().find((made) => made.name === name)
          if (one === undefined) {
            const known = all()
              .flatMap((made) => (made.counters === undefined ? [] : [made.name]))
              .join(", ")
            return failed("NotFound", name, `nobody has asked for it yet; there are: ${known || "none"}`)
          }
          return one.counters === undefined
            ? failed("Unsupported", name, "codes and sign-ups are not cleared: who has one waits for it")
            : one.counters.clear
        }),
      clearAll: Effect.suspend(() =>
        Effect.reduce(all(), 0, (sum, { counters }) =>
          counters === undefined ? Effect.succeed(sum) : Effect.map(counters.clear, (count) => sum + count)
        )
      ),
      unused: configured
        ? Effect.matchEffect(Effect.withConfigProvider(Fields.namesAt([root]), provider), {
            onFailure: (problems) =>
              Effect.fail(
                new CachesError({
                  reason: "InvalidSettings",
                  cache: root,
                  description: "they cannot be read",
                  problems
                })
              ),
            onSuccess: (names) =>
              Effect.sync(() => {
                const used = new Set([...entries.keys(), defaults].map(canonical))
                return names.filter((name) => !used.has(canonical(name)))
              })
          })
        : Effect.succeed([])
    })
  })

/** Where the caches are in configuration, and what holds for all of them. */
const root = "caches"
const defaults = "defaults"

const nothing = { found: {}, ofAll: {}, prefix: undefined }

const namePattern = /^[A-Za-z0-9._-]{1,128}$/

/**
 * The registry of `kinds` as a layer: `Caches.layer([RedisCaches.kind])`, or `Caches.layer()` for memory alone. The caches
 * are released with it.
 *
 * @since 0.1.0
 * @category layers
 */
export const layer = <K extends AnyKind = never>(
  kinds: ReadonlyArray<K> = []
): Layer.Layer<Caches, never, Requirements<K>> => Layer.scoped(Caches, make(kinds))

/**
 * Every cache in the memory of this process with the code's settings, whatever kind it says and whatever configuration
 * does: for tests.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: Layer.Layer<Caches> = Layer.scoped(Caches, registry<never>([], false))

/**
 * The confirmation cache of the application, with the settings at `caches.confirmation` (or `caches.<name>`).
 *
 * @since 0.1.0
 * @category layers
 */
export const layerConfirmation = (
  options: ConfirmationCache.Options & KindOption = {}
): Layer.Layer<ConfirmationCache.ConfirmationCache, CachesError, Caches> =>
  Layer.effect(ConfirmationCache.ConfirmationCache, get(confirmation({ ...options, schema: undefined })))

const failed = (reason: Reason, cache: string, description: string, cause?: unknown): CachesError =>
  new CachesError({ reason, cache, description, ...(cause === undefined ? {} : { cause }) })
