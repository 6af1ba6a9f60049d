# cmake -DSOURCE=FILE -DTARGET=FILE -P embed_text.cmake: a text as a C++ string literal, to be included.
file(READ ${SOURCE} text)
file(WRITE ${TARGET} "R\"embedded(${text})embedded\"\n")
