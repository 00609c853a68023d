# Passed to interface packages as CMAKE_PROJECT_TOP_LEVEL_INCLUDES when ROS 2 comes from wheels.
# The targets in the message wheels carry the Python include directories of the machine that built
# the wheels, and CMake refuses imported targets whose include directories do not exist. At the end
# of the configure step every include directory that is not on this machine is dropped from them;
# the right Python and NumPy directories are found and added by rosidl itself.
function(_drop_missing_include_dirs)
  get_property(targets DIRECTORY "${CMAKE_SOURCE_DIR}" PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(dirs ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(dirs)
      set(kept "")
      foreach(dir IN LISTS dirs)
        if(dir MATCHES "^\\$<" OR EXISTS "${dir}")
          list(APPEND kept "${dir}")
        endif()
      endforeach()
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES "${kept}")
    endif()
  endforeach()
endfunction()

cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL _drop_missing_include_dirs)
