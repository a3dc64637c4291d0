/**
 * The driver's BSON classes, once it is loaded: schemas of fields make their values with them.
 */
import type * as Mongo from "mongodb"

/** What schemas of fields need of the driver. */
export type Bson = Pick<typeof Mongo, "ObjectId" | "Binary" | "Decimal128" | "Long">

let loaded: Bson | undefined

/** Called whenever a connection loads the driver. */
export const setBson = (driver: Bson): void => {
  loaded = driver
}

/** Undefined as long as no connection was made. */
export const bson = (): Bson | undefined => loaded

/** The name that BSON values carry, whichever copy of the package made them. */
export const bsonType = (value: unknown): string | undefined => {
  if (typeof value !== "object" || value === null || !("_bsontype" in value)) return undefined
  return typeof value._bsontype === "string" ? value._bsontype : undefined
}
