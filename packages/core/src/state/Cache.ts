/**
 * Caches: typed handles over one backend. An unreachable cache is a miss, counted; a value of another shape is a miss;
 * concurrent misses of a key run its computation once, in this process and across processes. A port of the internal
 * plane: nothing is emitted per operation.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Handle from "../internal/cache/handle.ts"
import * as Memory from "../internal/cache/memory.ts"
import type { Backend, CacheError, CacheHandle, Options } from "../internal/cache/model.ts"

export * from "../internal/cache/model.ts"

/**
 * The backend of an application's caches.
 *
 * @since 0.1.0
 * @category tags
 */
export class Cache extends Context.Tag("@underlay/core/Cache")<Cache, Backend>() {}

/**
 * Makes a handle on the application's cache. Fails with `InvalidOptions` on options that cannot be, or that the backend
 * cannot do. One with a tier in this process listens until its scope closes.
 *
 * ```ts
 * const users = yield* Cache.make({ namespace: "users", ttl: "5 minutes", schema: User })
 * const user = yield* users.getOrElse(id, loadUser(id))
 * ```
 *
 * An entry is a JSON object, for example `{"value":{"name":"Ada"}}`, with what else there is to know of it before the
 * value: `keep` (for how many milliseconds after its freshness it is kept), `took` (how many its computation took),
 * `tags` (their stamps), `generation` (the namespace's stamp) and `schema` (the version of a trusted one). Instead of a
 * value, `"none":true` says that there is nothing.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make: {
  <A, I>(
    options: Options<A, I> & { readonly strict: true; readonly firstTier?: undefined }
  ): Effect.Effect<CacheHandle<A, CacheError>, CacheError, Cache>
  <A, I>(
    options: Options<A, I> & { readonly strict?: false | undefined; readonly firstTier?: undefined }
  ): Effect.Effect<CacheHandle<A>, CacheError, Cache>
  <A, I>(
    options: Options<A, I> & { readonly strict?: false | undefined }
  ): Effect.Effect<CacheHandle<A>, CacheError, Cache | Scope.Scope>
  <A, I>(options: Options<A, I>): Effect.Effect<CacheHandle<A, CacheError>, CacheError, Cache | Scope.Scope>
  // the implementation asks for a scope where there is a first tier only, and fails where the handle is strict only
} = <A, I>(options: Options<A, I>): Effect.Effect<CacheHandle<A>, CacheError, Cache> =>
  Effect.flatMap(Cache, (backend) => Handle.make(backend, options) as Effect.Effect<CacheHandle<A>, CacheError>)

/**
 * A class that is at once the tag of a named cache and has its layer.
 *
 * ```ts
 * class Users extends Cache.tag("app/Users", { namespace: "users", schema: User })<Users>() {}
 * const program = Effect.flatMap(Users, (users) => users.get("42")).pipe(Effect.provide(Users.layer))
 * ```
 *
 * @since 0.1.0
 * @category tags
 */
export const tag =
  <const Id extends string, A, I>(id: Id, options: Options<A, I> & { readonly strict?: false | undefined }) =>
  <Self>(): HandleTag<Self, Id, A> => {
    const base = Context.Tag(id)<Self, CacheHandle<A>>()
    // a getter, so that the layer is of the class that extends this one
    const descriptor: PropertyDescriptor & ThisType<Context.Tag<Self, CacheHandle<A>>> = {
      get() {
        return Layer.scoped(this, make(options))
      }
    }
    Reflect.defineProperty(base, "layer", descriptor)
    return base as HandleTag<Self, Id, A>
  }

/**
 * The class that `tag` gives.
 *
 * @since 0.1.0
 * @category models
 */
export interface HandleTag<Self, Id extends string, A> extends Context.TagClass<Self, Id, CacheHandle<A>> {
  readonly layer: Layer.Layer<Self, CacheError, Cache>
}

/**
 * A cache backend inside this process, by `Clock`. It holds at most `capacity` entries (default 10,000) over all
 * namespaces and then gives up the one that was used least recently.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory = (options: { readonly capacity?: number | undefined } = {}): Layer.Layer<Cache> =>
  Layer.scoped(Cache, Memory.make(options.capacity ?? 10_000))
