export * as DatabaseError from "./database/DatabaseError.ts"
export * as PGlite from "./database/PGlite.ts"
export * as Postgres from "./database/Postgres.ts"
export * as PgVector from "./vector/PgVector.ts"
