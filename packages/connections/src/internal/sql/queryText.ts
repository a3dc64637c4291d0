/**
 * What may be shown of a statement: its text with every value in it replaced, and the command that it begins with.
 */

// Comments, strings (plain, escaped, in dollars), quoted names, parameters and numbers, in the order in which PostgreSQL
// would see them. What is not closed is taken to the end; and so is a plain string from a backslash before a quote on,
// which ends the string or does not, as the server is set.
const parts =
  /--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)|\be'(?:[^'\\]|''|\\[\s\S])*(?:'|$)|\b(?:u&|b|x|n)?'(?:[^'\\]|''|\\(?!'))*(?:\\'[\s\S]*|'|$)|\$([a-z_][a-z0-9_]*)?\$[\s\S]*?(?:\$\1\$|$)|"(?:[^"]|"")*(?:"|$)|\$\d+|[a-z_\u0080-\uffff][\w$\u0080-\uffff]*|(?:\d[\w.]*|\.\d\w*)(?:(?<=e)[+-]\d+)?|'(?:[^'\\]|''|\\(?!'))*(?:\\'[\s\S]*|'|$)/gi

const maxLength = 2_000

/** The text without comments, each value in it as `?`, white space as single blanks, at most 2,000 characters. */
export const queryText = (sql: string): string => {
  const shown = sql
    .slice(0, 4 * maxLength)
    .replace(parts, (part) => {
      if (part.startsWith("--") || part.startsWith("/*")) return " "
      if (part.startsWith('"') || /^\$\d/.test(part)) return part
      return /^(?:[a-z&]{0,2}'|\$|[\d.])/i.test(part) ? "?" : part
    })
    .replace(/\s+/g, " ")
    .trim()
  return shown.length > maxLength ? `${shown.slice(0, maxLength)}…` : shown
}

const commands = new Set(
  (
    "SELECT INSERT UPDATE DELETE MERGE WITH VALUES TABLE CREATE ALTER DROP TRUNCATE COPY CALL DO SET RESET SHOW EXPLAIN " +
    "ANALYZE VACUUM REINDEX REFRESH COMMENT GRANT REVOKE LOCK LISTEN NOTIFY UNLISTEN PREPARE EXECUTE DEALLOCATE DECLARE " +
    "FETCH CLOSE BEGIN COMMIT ROLLBACK SAVEPOINT RELEASE CLUSTER IMPORT CHECKPOINT DISCARD"
  ).split(" ")
)

/** The command of a text of `queryText`, from a closed list, so that it can be a label of metrics. */
export const operationOf = (text: string): string => {
  const [, word = ""] = /^[\s(]*([a-z]+)/i.exec(text) ?? []
  return commands.has(word.toUpperCase()) ? word.toUpperCase() : "OTHER"
}
