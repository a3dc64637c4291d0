/** The types of paths into stored items, and of what stands there. */

type Leaf = string | number | bigint | boolean | null | undefined | Uint8Array | ReadonlySet<unknown> | Date

type Below<T, Depth extends ReadonlyArray<0>> = T extends Leaf
  ? never
  : T extends ReadonlyArray<infer Element>
    ? `[${number}]` | `[${number}]${Below<Element, Depth>}`
    : T extends object
      ? `.${PathOf<T, Depth>}`
      : never

/** `a`, `a.b`, `a[0]`, `a[0].b`: four names deep at the most; deeper ones are written as lists of their parts. */
export type PathOf<T, Depth extends ReadonlyArray<0> = readonly [0, 0, 0, 0]> = Depth extends readonly [
  0,
  ...infer Rest extends ReadonlyArray<0>
]
  ? { readonly [K in keyof T & string]: K | `${K}${Below<NonNullable<T[K]>, Rest>}` }[keyof T & string]
  : never

type ElementOf<T> = T extends ReadonlyArray<infer Element> ? NonNullable<Element> : unknown

type Step<T, Name> = Name extends keyof T
  ? NonNullable<T[Name]>
  : Name extends `${infer List}[${string}`
    ? List extends keyof T
      ? ElementOf<NonNullable<T[List]>>
      : unknown
    : unknown

/** What stands at a path. */
export type ValueAt<T, P> = P extends keyof T
  ? NonNullable<T[P]>
  : P extends `${infer Head}.${infer Tail}`
    ? ValueAt<Step<T, Head>, Tail>
    : Step<T, P>
